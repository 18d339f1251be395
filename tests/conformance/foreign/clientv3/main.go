// Uses what etcd's own Go client builds on top of the API: locks, elections, transactional memory, namespaces, leasing,
// mirrors and ordering. Prints what came of each, without ids, revisions or times, so that two systems can be compared.
//
//	clientv3 ENDPOINT[,ENDPOINT...]
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/ordering"
)

const stepTimeout = 30 * time.Second

var parts = []struct {
	name string
	run  func(ctx context.Context, c *clientv3.Client)
}{
	{"mutex", mutexes},
	{"election", elections},
	{"stm", transactionalMemory},
	{"namespace", namespaces},
	{"leasing", leasings},
	{"mirror", mirrors},
	{"ordering", orderings},
	{"naming", namings},
	{"progress", progress},
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: clientv3 ENDPOINT[,ENDPOINT...]")
		os.Exit(2)
	}
	client := dial(strings.Split(os.Args[1], ","))
	defer client.Close()
	for _, part := range parts {
		ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
		current = part.name
		part.run(ctx, client)
		cancel()
	}
}

var current string

func say(format string, values ...any) {
	fmt.Printf("%s: %s\n", current, fmt.Sprintf(format, values...))
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", current, err)
		os.Exit(1)
	}
}

// What a channel brings; the end if it brings nothing more.
func next[T any](channel <-chan T) T {
	select {
	case value, ok := <-channel:
		if !ok {
			check(errors.New("a channel was closed"))
		}
		return value
	case <-time.After(stepTimeout):
		check(errors.New("nothing came"))
	}
	panic("unreachable")
}

func dial(endpoints []string) *clientv3.Client {
	return must(clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second}))
}

func session(c *clientv3.Client) *concurrency.Session {
	return must(concurrency.NewSession(c, concurrency.WithTTL(10)))
}

func mutexes(ctx context.Context, c *clientv3.Client) {
	first, second := session(c), session(c)
	defer second.Close()
	mine, yours := concurrency.NewMutex(first, "mutex"), concurrency.NewMutex(second, "mutex")
	check(mine.Lock(ctx))
	say("try while held: %v", errors.Is(yours.TryLock(ctx), concurrency.ErrLocked))
	locked := make(chan error, 1)
	go func() { locked <- yours.Lock(ctx) }()
	select {
	case <-locked:
		say("locked twice")
	case <-time.After(200 * time.Millisecond):
		say("the second waits")
	}
	owned := must(c.Txn(ctx).If(mine.IsOwner()).Then(clientv3.OpPut("owner", "first")).Commit())
	say("the first owns it: %v", owned.Succeeded)
	check(first.Close()) // its lease is revoked, and the lock with it
	check(next(locked))
	owned = must(c.Txn(ctx).If(mine.IsOwner()).Then(clientv3.OpPut("owner", "first")).Commit())
	say("the first owns it: %v", owned.Succeeded)
	check(yours.Unlock(ctx))
	say("keys left: %d", must(c.Get(ctx, "mutex/", clientv3.WithPrefix(), clientv3.WithCountOnly())).Count)

	// Many who each read, add one and write: the lock alone keeps their sum right.
	var all sync.WaitGroup
	check(second.Close())
	for range 5 {
		all.Add(1)
		go func() {
			defer all.Done()
			s := session(c)
			defer s.Close()
			m := concurrency.NewMutex(s, "counted")
			for range 5 {
				check(m.Lock(ctx))
				got := must(c.Get(ctx, "sum"))
				count := 0
				if len(got.Kvs) > 0 {
					must(fmt.Sscan(string(got.Kvs[0].Value), &count))
				}
				must(c.Put(ctx, "sum", fmt.Sprint(count+1)))
				check(m.Unlock(ctx))
			}
		}()
	}
	all.Wait()
	say("sum: %s", must(c.Get(ctx, "sum")).Kvs[0].Value)
}

func elections(ctx context.Context, c *clientv3.Client) {
	first, second := session(c), session(c)
	defer second.Close()
	one, two := concurrency.NewElection(first, "office"), concurrency.NewElection(second, "office")
	_, err := two.Leader(ctx)
	say("leader of none: %v", errors.Is(err, concurrency.ErrElectionNoLeader))
	observed := concurrency.NewElection(second, "office").Observe(ctx)
	check(one.Campaign(ctx, "one"))
	say("observed %s", next(observed).Kvs[0].Value)
	elected := make(chan error, 1)
	go func() { elected <- two.Campaign(ctx, "two") }()
	check(one.Proclaim(ctx, "one again"))
	say("observed %s", next(observed).Kvs[0].Value)
	say("leader %s", must(two.Leader(ctx)).Kvs[0].Value)
	resumed := concurrency.ResumeElection(first, "office", one.Key(), one.Rev())
	check(resumed.Proclaim(ctx, "resumed"))
	say("observed %s", next(observed).Kvs[0].Value)
	check(resumed.Resign(ctx))
	check(next(elected))
	say("observed %s", next(observed).Kvs[0].Value)
	say("proclaims without office: %v", one.Proclaim(ctx, "nobody"))
	check(first.Close())
	check(two.Resign(ctx))
}

func transactionalMemory(ctx context.Context, c *clientv3.Client) {
	// Its reads are answered by any member, and one that is behind knows nothing of the revision that they are made at.
	c = dial(c.Endpoints()[:1])
	defer c.Close()
	const accounts, transfers = 4, 8
	for number := range accounts {
		must(c.Put(ctx, fmt.Sprintf("account/%d", number), "100"))
	}
	// The last reads what may be stale, and the accounts have to be there even so.
	levels := []struct {
		name  string
		level concurrency.Isolation
	}{
		{"serializable snapshot", concurrency.SerializableSnapshot},
		{"serializable", concurrency.Serializable},
		{"repeatable reads", concurrency.RepeatableReads},
	}
	for _, isolation := range levels {
		var all sync.WaitGroup
		for worker := range accounts {
			all.Add(1)
			go func() {
				defer all.Done()
				from, to := fmt.Sprintf("account/%d", worker), fmt.Sprintf("account/%d", (worker+1)%accounts)
				for range transfers {
					move := func(stm concurrency.STM) error {
						var a, b int
						must(fmt.Sscan(stm.Get(from), &a))
						must(fmt.Sscan(stm.Get(to), &b))
						stm.Put(from, fmt.Sprint(a-1))
						stm.Put(to, fmt.Sprint(b+1))
						return nil
					}
					must(concurrency.NewSTM(c, move, concurrency.WithIsolation(isolation.level), concurrency.WithAbortContext(ctx)))
				}
			}()
		}
		all.Wait()
		sum := 0
		for _, pair := range must(c.Get(ctx, "account/", clientv3.WithPrefix())).Kvs {
			var part int
			must(fmt.Sscan(string(pair.Value), &part))
			sum += part
		}
		say("%s: %d", isolation.name, sum)
	}
	stop := errors.New("stop")
	_, err := concurrency.NewSTM(c, func(stm concurrency.STM) error {
		stm.Del("account/0")
		return stop
	})
	say("aborted: %v, keys: %d", errors.Is(err, stop), must(c.Get(ctx, "account/", clientv3.WithPrefix())).Count)
}

func namespaces(ctx context.Context, c *clientv3.Client) {
	kv, watcher := namespace.NewKV(c.KV, "space/"), namespace.NewWatcher(clientv3.NewWatcher(c), "space/")
	defer watcher.Close()
	started := must(kv.Put(ctx, "a", "1"))
	must(c.Put(ctx, "spacf", "outside"))
	must(kv.Txn(ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).Then(
		clientv3.OpPut("b", "2"), clientv3.OpGet("", clientv3.WithFromKey())).Commit())
	all := must(kv.Get(ctx, "", clientv3.WithFromKey()))
	for _, pair := range all.Kvs {
		say("%s=%s", pair.Key, pair.Value)
	}
	events := watcher.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(started.Header.Revision))
	must(kv.Delete(ctx, "a"))
	for heard := 0; heard < 3; {
		for _, event := range next(events).Events {
			say("%s %s", event.Type, event.Kv.Key)
			heard++
		}
	}
	say("really %s", must(c.Get(ctx, "space/", clientv3.WithPrefix())).Kvs[0].Key)
	lease := namespace.NewLease(c.Lease, "space/")
	granted := must(lease.Grant(ctx, 60))
	must(kv.Put(ctx, "leased", "", clientv3.WithLease(granted.ID)))
	say("keys of the lease: %s", must(lease.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())).Keys)
	must(lease.Revoke(ctx, granted.ID))
	say("with its lease: %d", must(kv.Get(ctx, "leased")).Count)
}

func leasings(ctx context.Context, c *clientv3.Client) {
	mine, closeMine, err := leasing.NewKV(c, "leasing/")
	check(err)
	defer closeMine()
	yours, closeYours, err := leasing.NewKV(c, "leasing/")
	check(err)
	defer closeYours()
	must(c.Put(ctx, "cached", "1"))
	say("mine: %s", must(mine.Get(ctx, "cached")).Kvs[0].Value)
	say("again: %s", must(mine.Get(ctx, "cached")).Kvs[0].Value)
	must(yours.Put(ctx, "cached", "2")) // takes the key from who has it
	say("mine: %s", must(mine.Get(ctx, "cached")).Kvs[0].Value)
	done := must(yours.Txn(ctx).If(clientv3.Compare(clientv3.Version("cached"), "=", 2)).Then(
		clientv3.OpPut("cached", "3")).Else(clientv3.OpGet("cached")).Commit())
	say("transaction: %v", done.Succeeded)
	say("mine: %s", must(mine.Get(ctx, "cached")).Kvs[0].Value)
	must(mine.Delete(ctx, "cached"))
	say("yours: %d", must(yours.Get(ctx, "cached")).Count)
}

func mirrors(ctx context.Context, c *clientv3.Client) {
	for hundred := range 25 { // more than a page
		var puts []clientv3.Op
		for number := range 100 {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("source/%04d", 100*hundred+number), "x"))
		}
		must(c.Txn(ctx).Then(puts...).Commit())
	}
	copyOf := map[string]string{}
	syncer := mirror.NewSyncer(c, "source/", 0)
	pages, failed := syncer.SyncBase(ctx)
	for page := range pages {
		for _, pair := range page.Kvs {
			copyOf[string(pair.Key)] = string(pair.Value)
		}
	}
	for err := range failed {
		check(err)
	}
	say("base: %d", len(copyOf))
	updates := syncer.SyncUpdates(ctx)
	must(c.Put(ctx, "source/0000", "changed"))
	must(c.Txn(ctx).Then(clientv3.OpPut("source/new", "1"), clientv3.OpDelete("source/0001")).Commit())
	must(c.Put(ctx, "source/end", ""))
	for copyOf["source/end"] == "" {
		for _, event := range next(updates).Events {
			if event.Type == clientv3.EventTypeDelete {
				delete(copyOf, string(event.Kv.Key))
			} else {
				copyOf[string(event.Kv.Key)] = string(event.Kv.Value) + "."
			}
		}
	}
	_, old := copyOf["source/0001"]
	say("updated: %d, %s, %s, %v", len(copyOf), copyOf["source/0000"], copyOf["source/new"], old)
	must(c.Delete(ctx, "source/", clientv3.WithPrefix()))
}

func orderings(ctx context.Context, c *clientv3.Client) {
	violations := 0
	kv := ordering.NewKV(c.KV, func(op clientv3.Op, resp clientv3.OpResponse, prevRev int64) error {
		violations++
		return errors.New("an older revision than before")
	})
	for number := range 100 {
		must(kv.Put(ctx, "ordered", fmt.Sprint(number)))
		got := must(kv.Get(ctx, "ordered"))
		if string(got.Kvs[0].Value) != fmt.Sprint(number) {
			say("read %s after %d", got.Kvs[0].Value, number)
		}
	}
	say("violations: %d", violations)
}

func namings(ctx context.Context, c *clientv3.Client) {
	manager := must(endpoints.NewManager(c, "service"))
	told := must(manager.NewWatchChannel(ctx))
	check(manager.AddEndpoint(ctx, "service/a", endpoints.Endpoint{Addr: "10.0.0.1:80"}))
	for _, update := range next(told) {
		say("%v %s", update.Op, update.Endpoint.Addr)
	}
	check(manager.DeleteEndpoint(ctx, "service/a"))
	for _, update := range next(told) {
		say("%v %s", update.Op, update.Key)
	}
}

// What kube-apiserver does to serve lists from its cache: a version that it trusts, and progress on demand on a stream
// that insists on a leader and is shared by several watches.
func progress(ctx context.Context, c *clientv3.Client) {
	status := must(c.Status(ctx, c.Endpoints()[0]))
	say("has a version: %v", status.Version != "")
	led := clientv3.WithRequireLeader(ctx)
	one := c.Watch(led, "progress/a", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	two := c.Watch(led, "progress/b", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	next(one)
	next(two)
	written := must(c.Put(ctx, "elsewhere", "1")).Header.Revision
	check(c.RequestProgress(led))
	for _, watch := range []clientv3.WatchChan{one, two} {
		told := next(watch)
		say("progress: %v, at least as new as the write: %v", told.IsProgressNotify(), told.Header.Revision >= written)
	}
}
