"""`boathouse bench`: the same closed-loop load on boathouse, on its ceiling and on etcd, in one run.

A figure alone says little on a shared machine, a ratio within one run says more. So every system gets the
same client, the same prebuilt requests and a fresh folder on the same disk, one after the other, round by
round."""
