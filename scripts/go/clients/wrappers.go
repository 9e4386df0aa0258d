package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

func namespaces(r *run) {
	kv := namespace.NewKV(r.client.KV, r.key(""))
	watcher, lease := namespace.NewWatcher(r.client.Watcher, r.key("")), namespace.NewLease(r.client.Lease, r.key(""))
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	granted := got(lease.Grant(r.ctx, 600))
	got(kv.Put(r.ctx, "a", "1", clientv3.WithLease(granted.ID)))
	got(kv.Put(r.ctx, "b", "2"))
	got(r.client.Put(r.ctx, "outside", "3"))
	r.found("inside", got(kv.Get(r.ctx, "", clientv3.WithFromKey())))
	r.found("outside", got(r.client.Get(r.ctx, r.key("a"))))
	answer := got(kv.Txn(r.ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).Then(
		clientv3.OpPut("c", "4"), clientv3.OpGet("c"), clientv3.OpDelete("b", clientv3.WithPrevKV())).Commit())
	r.say("txn %v %s %s", answer.Succeeded,
		r.pair(answer.Responses[1].GetResponseRange().Kvs[0]), r.pair(answer.Responses[2].GetResponseDeleteRange().PrevKvs[0]))
	r.events("watched", watcher.Watch(ctx, "", clientv3.WithFromKey(), clientv3.WithRev(r.base+1)), 4)
	r.say("attached %q", got(lease.TimeToLive(r.ctx, granted.ID, clientv3.WithAttachedKeys())).Keys)
	r.say("deleted %d", got(kv.Delete(r.ctx, "", clientv3.WithFromKey())).Deleted)
	r.found("still there", got(r.client.Get(r.ctx, "outside")))
}

// Two clients that own keys, one after the other: each sees what the other wrote.
func leasings(r *run) {
	one, closeOne, err := leasing.NewKV(r.client, r.key("leases/"))
	must(err)
	defer closeOne()
	second := connect(r.endpoints...)
	defer second.Close()
	other, closeOther, err := leasing.NewKV(second, r.key("leases/"))
	must(err)
	defer closeOther()
	values := func(title string, kv clientv3.KV) {
		found := got(kv.Get(r.ctx, r.key("a")))
		r.say("%s: %d %q", title, found.Count, func() (told []string) {
			for _, pair := range found.Kvs {
				told = append(told, string(pair.Value))
			}
			return told
		}())
	}
	got(r.client.Put(r.ctx, r.key("a"), "0"))
	values("owned", one)
	values("owned, from the cache", one)
	got(one.Put(r.ctx, r.key("a"), "1"))
	values("changed by the owner", other)
	got(other.Put(r.ctx, r.key("a"), "2"))
	values("changed by the other", one)
	for index := range 20 {
		got(one.Put(r.ctx, r.key("a"), strconv.Itoa(index)))
		got(other.Put(r.ctx, r.key("a"), strconv.Itoa(index+100)))
	}
	values("after many", one)
	answer := got(one.Txn(r.ctx).If(clientv3.Compare(clientv3.Value(r.key("a")), "=", "119")).Then(clientv3.OpPut(r.key("a"), "t")).Commit())
	r.say("txn %v", answer.Succeeded)
	values("after a transaction", other)
	r.say("deleted %d", got(other.Delete(r.ctx, r.key("a"))).Deleted)
	values("deleted", one)
}

// No answer is older than one that was seen before, whichever member gives it.
func orderings(r *run) {
	client := connect(r.endpoints...)
	defer client.Close()
	kv := ordering.NewKV(client.KV, ordering.NewOrderViolationSwitchEndpointClosure(client))
	last := 0
	for index := range 100 {
		got(kv.Put(r.ctx, r.key("a"), strconv.Itoa(index)))
		found := got(kv.Get(r.ctx, r.key("a"), clientv3.WithSerializable()))
		seen := got(strconv.Atoi(string(found.Kvs[0].Value)))
		if seen < last {
			panic(fmt.Sprintf("%d after %d", seen, last))
		}
		last = seen
		answer := got(kv.Txn(r.ctx).Then(clientv3.OpGet(r.key("a"), clientv3.WithSerializable())).Commit())
		if seen = got(strconv.Atoi(string(answer.Responses[0].GetResponseRange().Kvs[0].Value))); seen < last {
			panic(fmt.Sprintf("%d after %d", seen, last))
		}
		last = seen
	}
	r.say("in order")
}

// The same of two members, one of which lags behind, with connections that break: rather no answer than one from before.
//
// The first endpoint keeps up, the second is cut off, paused and let go by whoever runs the program: it says when (`say`), and waits until that
// is done (`ordered`).
func reconnections(r *run) {
	near, far := connect(r.endpoints[0]), connect(r.endpoints[1])
	defer near.Close()
	defer far.Close()
	written, last, violations := -1, -1, 0
	write := func(count int) {
		for range count {
			written++
			got(near.Put(r.ctx, r.key("a"), strconv.Itoa(written)))
		}
	}
	value := func(kv clientv3.KV) (int, error) {
		found, err := kv.Get(r.ctx, r.key("a"), clientv3.WithSerializable())
		if err != nil {
			return -1, err
		}
		return strconv.Atoi(string(found.Kvs[0].Value))
	}
	inOrder := func(kv clientv3.KV) {
		seen := got(value(kv))
		if seen < last {
			panic(fmt.Sprintf("%d after %d", seen, last))
		}
		last = seen
	}
	caughtUp := func() bool { seen, err := value(far.KV); return err == nil && seen == written }

	write(10)
	until(r, "the second member", caughtUp)
	anyway := ordering.NewKV(r.client.KV, func(clientv3.Op, clientv3.OpResponse, int64) error { violations++; return nil })
	inOrder(anyway)
	r.say("cut off the second")
	ordered()
	write(100)
	if caughtUp() {
		panic("the second member does not lag")
	}
	for count := 0; count < 100 || violations == 0; count++ { // until the member that lags was asked, too
		inOrder(anyway)
	}
	r.say("in order at %d", last)

	strict := ordering.NewKV(r.client.KV, ordering.NewOrderViolationSwitchEndpointClosure(r.client))
	until(r, "the latest value", func() bool { seen, err := value(strict); return err == nil && seen == written })
	r.say("kill the first")
	ordered()
	var refusal error
	until(r, "a refusal", func() bool {
		seen, err := value(strict)
		if err == nil && seen != written {
			panic(fmt.Sprintf("%d after %d", seen, written))
		}
		refusal = err
		return errors.Is(err, ordering.ErrNoGreaterRev)
	})
	r.say("the second alone: %s", refused(refusal))
	r.say("let the second go on")
	ordered()
	until(r, "an answer of the second", func() bool { seen, err := value(strict); return err == nil && seen == written })
	r.say("caught up")

	r.say("start the first")
	ordered()
	until(r, "the first member", func() bool { _, err := value(near.KV); return err == nil })
	first := got(near.Get(r.ctx, r.key("a"))).Header.MemberId
	until(r, "a new connection to the first", func() bool {
		found, err := r.client.Get(r.ctx, r.key("a"), clientv3.WithSerializable())
		return err == nil && found.Header.MemberId == first
	})
	r.say("pause the second")
	ordered()
	write(200)
	r.say("let the second go on")
	ordered()
	for range 300 {
		inOrder(anyway)
	}
	until(r, "the second member", caughtUp)
	inOrder(anyway)
	r.say("in order at %d", last)
}

func mirrors(r *run) {
	for begin := range 25 { // more than the syncer reads at once
		puts := make([]clientv3.Op, 100)
		for index := range puts {
			puts[index] = clientv3.OpPut(r.key(fmt.Sprintf("%05d", begin*100+index)), "1")
		}
		got(r.client.Txn(r.ctx).Then(puts...).Commit())
	}
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	syncer := mirror.NewSyncer(r.client, r.key(""), 0)
	pages, failed := syncer.SyncBase(ctx)
	count := 0
	for page := range pages {
		count += len(page.Kvs)
	}
	must(<-failed)
	r.say("base %d", count)
	updates := syncer.SyncUpdates(ctx)
	got(r.client.Put(r.ctx, r.key("00007"), "2"))
	got(r.client.Delete(r.ctx, r.key("00008")))
	r.events("update", updates, 2)
}

// Each of concurrency's levels under clashing changes: nothing is lost where the level says so.
func isolation(r *run) {
	for title, level := range map[string]concurrency.Isolation{
		"snapshot": concurrency.SerializableSnapshot, "serializable": concurrency.Serializable, "repeatable": concurrency.RepeatableReads,
	} {
		key := r.key(title)
		got(r.client.Put(r.ctx, key, "0"))
		done := make(chan error)
		for range 3 {
			go func() {
				for range 20 {
					_, err := concurrency.NewSTM(r.client, func(stm concurrency.STM) error {
						value, _ := strconv.Atoi(stm.Get(key))
						stm.Put(key, strconv.Itoa(value+1))
						return nil
					}, concurrency.WithIsolation(level), concurrency.WithPrefetch(key), concurrency.WithAbortContext(r.ctx))
					if err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range 3 {
			must(<-done)
		}
		if value := string(got(r.client.Get(r.ctx, key)).Kvs[0].Value); value != "60" {
			panic(title + ": " + value)
		}
	}
	r.say("nothing lost")
	_, err := concurrency.NewSTM(r.client, func(stm concurrency.STM) error {
		r.say("read committed: %q rev %v", stm.Get(r.key("snapshot"), r.key("none")), stm.Rev(r.key("none")))
		stm.Del(r.key("snapshot"))
		return nil
	}, concurrency.WithIsolation(concurrency.ReadCommitted))
	must(err)
	r.say("deleted %d", got(r.client.Get(r.ctx, r.key("snapshot"))).Count)
}
