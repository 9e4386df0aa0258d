package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// The next `count` events of a watch, however the server parts them.
func (r *run) events(title string, watch clientv3.WatchChan, count int) {
	for count > 0 {
		answer, open := <-watch
		if !open {
			panic(title + ": the watch ended")
		}
		must(answer.Err())
		for _, event := range answer.Events {
			r.say("%s: %s %s before %s", title, event.Type, r.pair(event.Kv), r.pair(event.PrevKv))
			count--
		}
	}
}

func watches(r *run) {
	ctx, cancel := context.WithCancel(r.ctx)
	all := r.client.Watch(ctx, r.key(""), clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	created := <-all
	r.say("created %v at %s", created.Created, r.rev(created.Header.Revision))
	puts := r.client.Watch(ctx, r.key(""), clientv3.WithPrefix(), clientv3.WithFilterDelete(), clientv3.WithRev(r.base+1))
	deletes := r.client.Watch(ctx, r.key(""), clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithRev(r.base+1))
	got(r.client.Put(r.ctx, r.key("a"), "1"))
	got(r.client.Put(r.ctx, r.key("a"), "2"))
	got(r.client.Txn(r.ctx).Then(clientv3.OpPut(r.key("b"), "1"), clientv3.OpDelete(r.key("a"))).Commit())
	got(r.client.Delete(r.ctx, r.key("b")))
	r.events("all", all, 5)
	r.events("puts", puts, 3)
	r.events("deletes", deletes, 2)
	past := r.client.Watch(ctx, r.key("a"), clientv3.WithRev(r.base+2))
	r.events("past", past, 2)
	r.events("range", r.client.Watch(ctx, r.key("a"), clientv3.WithRange(r.key("c")), clientv3.WithRev(r.base+2)), 4)
	must(r.client.RequestProgress(ctx))
	progress := <-all
	r.say("progress %v at %s", progress.IsProgressNotify(), r.rev(progress.Header.Revision))
	fragments(r, ctx)
	cancel()
	for range all {
	}
	r.say("over")
}

// One answer that is more than a message may hold, in parts.
func fragments(r *run, ctx context.Context) {
	begin := got(r.client.Put(r.ctx, r.key("large/0"), "")).Header.Revision + 1
	for index := range 5 {
		got(r.client.Put(r.ctx, r.key(fmt.Sprintf("large/%d", index)), strings.Repeat("x", 1_000_000)))
	}
	watch := r.client.Watch(ctx, r.key("large/"), clientv3.WithPrefix(), clientv3.WithFragment(), clientv3.WithRev(begin))
	seen, size := 0, 0
	for seen < 5 {
		answer := <-watch
		must(answer.Err())
		seen += len(answer.Events)
		for _, event := range answer.Events {
			size += len(event.Kv.Value)
		}
	}
	r.say("fragments: %d events %d bytes", seen, size)
}

func leases(r *run) {
	made := got(r.client.Grant(r.ctx, 600))
	r.say("granted %d", made.TTL)
	got(r.client.Put(r.ctx, r.key("a"), "1", clientv3.WithLease(made.ID)))
	got(r.client.Put(r.ctx, r.key("b"), "1", clientv3.WithLease(made.ID)))
	told := got(r.client.TimeToLive(r.ctx, made.ID, clientv3.WithAttachedKeys()))
	slices.SortFunc(told.Keys, bytes.Compare) // etcd tells them in the order of a map
	r.say("granted %d keys %q left %v", told.GrantedTTL, told.Keys, told.TTL > 500)
	once := got(r.client.KeepAliveOnce(r.ctx, made.ID))
	r.say("kept once %d", once.TTL)
	ctx, cancel := context.WithCancel(r.ctx)
	kept := got(r.client.KeepAlive(ctx, made.ID))
	r.say("kept %d", (<-kept).TTL)
	cancel()
	for range kept {
	}
	listed := got(r.client.Leases(r.ctx))
	present := false
	for _, one := range listed.Leases {
		present = present || one.ID == made.ID
	}
	r.say("listed %v", present)
	got(r.client.Revoke(r.ctx, made.ID))
	r.found("revoked", got(r.client.Get(r.ctx, r.key(""), clientv3.WithPrefix())))
	_, err := r.client.Revoke(r.ctx, made.ID)
	r.say("again: %s", refused(err))
	_, err = r.client.KeepAliveOnce(r.ctx, made.ID)
	r.say("kept too late: %s", refused(err))
	r.say("time to live: %d", got(r.client.TimeToLive(r.ctx, made.ID)).TTL)
	for _, seconds := range []int64{0, -1, 9_000_000_001} {
		_, err = r.client.Grant(r.ctx, seconds)
		r.say("granted %d: %s", seconds, refused(err))
	}
	short := got(r.client.Grant(r.ctx, 1)).ID
	got(r.client.Put(r.ctx, r.key("short"), "1", clientv3.WithLease(short)))
	until(r, "the end of a lease", func() bool { return got(r.client.Get(r.ctx, r.key("short"))).Count == 0 })
	r.say("ended")
}

// Over all members, one of which dies: no acknowledged key is lost, a watch misses nothing and repeats nothing.
//
// Says `ready` when it runs; then reads `on` (somebody died; go on for a while), and `end`.
func follow(r *run) {
	client := got(clientv3.New(clientv3.Config{
		Endpoints: r.endpoints[:1], AutoSyncInterval: 100 * time.Millisecond, DialTimeout: 5 * time.Second,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	}))
	defer client.Close()
	until(r, "all members' addresses", func() bool { return len(client.Endpoints()) == 3 })
	watch := client.Watch(r.ctx, r.key(""), clientv3.WithPrefix())
	written, failed := 0, 0
	write := func(count int) {
		for done := 0; done < count; {
			ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
			// a write that was not answered is not repeated by the client, and may have happened: each attempt has a key of its own
			_, err := client.Put(ctx, r.key(fmt.Sprintf("%06d", written+failed)), "1")
			cancel()
			must(r.ctx.Err())
			if err != nil {
				failed++
				continue
			}
			written++
			done++
		}
	}
	write(50)
	r.say("ready")
	for order := ordered(); order != "end"; order = ordered() {
		write(100)
		for range 20 {
			got(client.Get(r.ctx, r.key("000000")))
		}
		r.say("went on")
	}
	last := got(client.Put(r.ctx, r.key("last"), "1")).Header.Revision
	seen := map[string]bool{}
	for !seen[r.key("last")] {
		answer, open := <-watch
		if !open {
			panic("the watch ended")
		}
		must(answer.Err())
		for _, event := range answer.Events {
			if seen[string(event.Kv.Key)] || event.Kv.ModRevision > last {
				panic("seen twice: " + string(event.Kv.Key))
			}
			seen[string(event.Kv.Key)] = true
		}
	}
	present := got(client.Get(r.ctx, r.key(""), clientv3.WithPrefix(), clientv3.WithKeysOnly()))
	if len(present.Kvs) != len(seen) || len(seen) < written+1 {
		panic(fmt.Sprintf("acknowledged %d, present %d, seen %d", written, len(present.Kvs), len(seen)))
	}
	r.say("all of them, endpoints %d", len(client.Endpoints()))
}
