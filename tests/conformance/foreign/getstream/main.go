// Streams ranges with etcd's own Go client of 3.7, and prints what came, without ids or the sizes of chunks, so that two
// systems can be compared. The keyspace has to be empty, and at revision 1.
//
//	getstream ENDPOINT
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	keys    = 2000
	batch   = 100
	timeout = 180 * time.Second
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: os.Args[1:], DialTimeout: 5 * time.Second})
	check(err)
	defer client.Close()
	for first := 0; first < keys; first += batch {
		var puts []clientv3.Op
		for number := first; number < first+batch; number++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("k%04d", number), strings.Repeat("v", 10_000)))
		}
		_, err := client.Txn(ctx).Then(puts...).Commit()
		check(err)
	}
	for _, one := range []struct {
		name    string
		key     string
		options []clientv3.OpOption
	}{
		{"prefix", "k", []clientv3.OpOption{clientv3.WithPrefix()}},
		{"from key", "k1", []clientv3.OpOption{clientv3.WithFromKey()}},
		{"range", "k0100", []clientv3.OpOption{clientv3.WithRange("k0200")}},
		{"one key", "k0100", nil},
		{"no key", "x", nil},
		{"empty range", "x", []clientv3.OpOption{clientv3.WithPrefix()}},
		{"limit", "k", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(1500)}},
		{"revision", "k", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(11)}},
		{"keys only", "k", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithKeysOnly()}},
		{"count only", "k", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCountOnly()}},
		{"serializable", "k", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSerializable()}},
	} {
		compare(ctx, client, one.name, one.key, one.options...)
	}
	for _, one := range []struct {
		name   string
		option clientv3.OpOption
	}{
		{"sorted", clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend)},
		{"backwards", clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)},
		{"filtered", clientv3.WithMinModRev(10)},
		{"of the future", clientv3.WithRev(1_000_000)},
	} {
		stream, err := client.GetStream(ctx, "k", clientv3.WithPrefix(), one.option)
		check(err)
		_, err = clientv3.GetStreamToGetResponse(stream)
		fmt.Printf("%s: %v\n", one.name, err)
	}
	goneInTheMiddle(ctx, client)
}

// Whether the chunks together are what Get answers, and only the last knows of the whole.
func compare(ctx context.Context, client *clientv3.Client, name, key string, options ...clientv3.OpOption) {
	whole, err := client.Get(ctx, key, options...)
	check(err)
	stream, err := client.GetStream(ctx, key, options...)
	check(err)
	merged, last := &clientv3.GetResponse{}, clientv3.RangeStreamResponse{}
	early := 0
	for chunk := range stream {
		check(chunk.Err())
		if last.RangeResponse != nil && (last.Header != nil || last.More || last.Count != 0) {
			early++
		}
		last = chunk
		merged.Header, merged.More, merged.Count = chunk.Header, chunk.More, chunk.Count
		merged.Kvs = append(merged.Kvs, chunk.Kvs...)
	}
	digest := sha256.New()
	equal := len(merged.Kvs) == len(whole.Kvs)
	for at, kv := range merged.Kvs {
		encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(kv)
		check(err)
		digest.Write(encoded)
		equal = equal && proto.Equal(kv, whole.Kvs[at])
	}
	fmt.Printf("%s: %d pairs, more %v, count %d, revision %d, %x; as Get: %v; chunks that know too early: %d\n",
		name, len(merged.Kvs), merged.More, merged.Count, merged.Header.Revision, digest.Sum(nil)[:8],
		equal && merged.More == whole.More && merged.Count == whole.Count &&
			merged.Header.Revision == whole.Header.Revision, early)
}

// Reads one chunk, and goes; time and again, so that whatever a server keeps for each would run out.
func goneInTheMiddle(ctx context.Context, client *clientv3.Client) {
	for range 100 {
		hasty, cancel := context.WithCancel(ctx)
		stream, err := client.GetStream(hasty, "k", clientv3.WithPrefix())
		check(err)
		first := <-stream
		check(first.Err())
		cancel()
		for chunk := range stream {
			if err = chunk.Err(); err != nil && !errors.Is(err, context.Canceled) {
				check(err)
			}
		}
	}
	compare(ctx, client, "after 100 that went", "k", clientv3.WithPrefix())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
