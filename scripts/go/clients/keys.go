package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
	"go.etcd.io/etcd/client/v3/kubernetes"
)

func keys(r *run) {
	put := func(title string, key, value string, options ...clientv3.OpOption) {
		answer, err := r.client.Put(r.ctx, r.key(key), value, options...)
		if err != nil {
			r.say("%s: %s", title, refused(err))
			return
		}
		r.say("%s: at %s before %s", title, r.rev(answer.Header.Revision), r.pair(answer.PrevKv))
	}
	lease := got(r.client.Grant(r.ctx, 600)).ID
	put("new", "a", "1")
	put("again", "a", "2", clientv3.WithPrevKV())
	put("leased", "a", "3", clientv3.WithLease(lease))
	put("value kept", "a", "", clientv3.WithIgnoreValue(), clientv3.WithPrevKV())
	put("lease kept", "a", "4", clientv3.WithIgnoreLease())
	put("value of nothing", "none", "", clientv3.WithIgnoreValue())
	put("lease of nothing", "none", "1", clientv3.WithIgnoreLease())
	put("no such lease", "b", "1", clientv3.WithLease(99))
	put("binary", "\x00\xff", "\x00\xfe\xff")
	r.found("found", got(r.client.Get(r.ctx, r.key(""), clientv3.WithPrefix())))
	gone := got(r.client.Delete(r.ctx, r.key("a"), clientv3.WithPrevKV()))
	r.say("deleted: at %s %d before %s", r.rev(gone.Header.Revision), gone.Deleted, r.pair(gone.PrevKvs[0]))
	gone = got(r.client.Delete(r.ctx, r.key("a")))
	r.say("deleted again: at %s %d", r.rev(gone.Header.Revision), gone.Deleted)
	gone = got(r.client.Delete(r.ctx, r.key(""), clientv3.WithPrefix()))
	r.say("the rest: at %s %d", r.rev(gone.Header.Revision), gone.Deleted)
	_, err := r.client.Get(r.ctx, "")
	r.say("no key: %s", refused(err))
	short, cancel := context.WithTimeout(r.ctx, -time.Second)
	_, err = r.client.Put(short, r.key("late"), "1")
	cancel()
	r.say("too late: %s", refused(err))
}

func ranges(r *run) {
	for index, name := range []string{"c", "a", "e", "b", "d"} {
		for range index + 1 {
			got(r.client.Put(r.ctx, r.key(name), strings.Repeat("x", 5-index)))
		}
	}
	now := got(r.client.Get(r.ctx, r.key(""), clientv3.WithCountOnly())).Header.Revision
	begin, end := clientv3.WithPrefix(), clientv3.WithRange(r.key("d"))
	look := func(title, key string, options ...clientv3.OpOption) {
		r.found(title, got(r.client.Get(r.ctx, r.key(key), options...)))
	}
	look("all", "", begin)
	look("part", "b", end)
	look("reversed", "d", clientv3.WithRange(r.key("b")))
	look("limited", "", begin, clientv3.WithLimit(2))
	look("counted", "", begin, clientv3.WithCountOnly())
	look("keys", "", begin, clientv3.WithKeysOnly(), clientv3.WithLimit(1))
	look("serializable", "", begin, clientv3.WithSerializable(), clientv3.WithRev(now))
	for _, target := range []clientv3.SortTarget{
		clientv3.SortByKey, clientv3.SortByVersion, clientv3.SortByCreateRevision, clientv3.SortByModRevision, clientv3.SortByValue,
	} {
		for _, order := range []clientv3.SortOrder{clientv3.SortNone, clientv3.SortAscend, clientv3.SortDescend} {
			look(fmt.Sprintf("sorted %d %d", target, order), "", begin, clientv3.WithSort(target, order), clientv3.WithLimit(3))
		}
	}
	look("past", "", begin, clientv3.WithRev(r.base+3))
	look("modified", "", begin, clientv3.WithMinModRev(r.base+3), clientv3.WithMaxModRev(r.base+7))
	look("created", "", begin, clientv3.WithMinCreateRev(r.base+3), clientv3.WithMaxCreateRev(r.base+7))
	look("last created", "", clientv3.WithLastCreate()...)
	look("first changed", "", clientv3.WithFirstRev()...)
	_, err := r.client.Get(r.ctx, r.key("a"), clientv3.WithRev(now+1000))
	r.say("of the future: %s", refused(err))
}

// RangeStream: the parts of an answer, joined.
func streams(r *run) {
	for index := range 300 {
		got(r.client.Put(r.ctx, r.key(fmt.Sprintf("%04d", index)), strings.Repeat("v", 10_000)))
	}
	for title, options := range map[string][]clientv3.OpOption{
		"all": {}, "keys": {clientv3.WithKeysOnly()}, "limited": {clientv3.WithLimit(7)}, "counted": {clientv3.WithCountOnly()},
		"past": {clientv3.WithRev(r.base + 100)},
	} {
		options = append(options, clientv3.WithPrefix())
		joined := got(clientv3.GetStreamToGetResponse(got(r.client.GetStream(r.ctx, r.key(""), options...))))
		whole := got(r.client.Get(r.ctx, r.key(""), options...))
		same := len(joined.Kvs) == len(whole.Kvs) && joined.Count == whole.Count && joined.More == whole.More
		for index := range whole.Kvs {
			same = same && joined.Kvs[index].String() == whole.Kvs[index].String()
		}
		if !same {
			panic(fmt.Sprintf("%s: a stream of %d of %d, but an answer of %d of %d", title, len(joined.Kvs), joined.Count, len(whole.Kvs), whole.Count))
		}
	}
	r.say("streams are as answers")
	stream, err := r.client.GetStream(r.ctx, r.key(""), clientv3.WithPrefix(), clientv3.WithRev(r.base+1_000_000))
	if err == nil {
		last := <-stream
		err = last.Err()
	}
	r.say("of the future: %s", refused(err))
}

func transactions(r *run) {
	a, b := r.key("a"), r.key("b")
	commit := func(title string, txn clientv3.Txn) {
		answer, err := txn.Commit()
		if err != nil {
			r.say("%s: %s", title, refused(err))
			return
		}
		r.say("%s: %v at %s %d answers", title, answer.Succeeded, r.rev(answer.Header.Revision), len(answer.Responses))
		for _, one := range answer.Responses {
			if found := one.GetResponseRange(); found != nil {
				r.found("  range", (*clientv3.GetResponse)(found))
			}
			if inner := one.GetResponseTxn(); inner != nil {
				r.say("  txn %v %d", inner.Succeeded, len(inner.Responses))
			}
		}
	}
	txn := func() clientv3.Txn { return r.client.Txn(r.ctx) }
	commit("missing", txn().If(clientv3util.KeyMissing(a)).Then(clientv3.OpPut(a, "1"), clientv3.OpGet(a)))
	commit("exists", txn().If(clientv3util.KeyExists(a)).Then(clientv3.OpPut(b, "1"), clientv3.OpDelete(a), clientv3.OpPut(a, "2")))
	commit("neither", txn().If(clientv3util.KeyMissing(a)).Else(clientv3.OpGet(r.key(""), clientv3.WithPrefix())))
	for _, sign := range []string{"=", "!=", ">", "<"} {
		commit("value "+sign, txn().If(clientv3.Compare(clientv3.Value(a), sign, "2")))
		commit("version "+sign, txn().If(clientv3.Compare(clientv3.Version(a), sign, 2)))
		commit("created "+sign, txn().If(clientv3.Compare(clientv3.CreateRevision(a), sign, r.base+2)))
		commit("modified "+sign, txn().If(clientv3.Compare(clientv3.ModRevision(b), sign, r.base+1)))
		commit("lease "+sign, txn().If(clientv3.Compare(clientv3.LeaseValue(a), sign, 0)))
	}
	commit("a range", txn().If(clientv3.Compare(clientv3.Version(r.key("")), ">", 0).WithPrefix()).Then(clientv3.OpPut(a, "3")))
	commit("all of it", txn().If(
		clientv3.Compare(clientv3.Value(a), "=", "3"), clientv3.Compare(clientv3.Value(b), "=", "0")).Else(clientv3.OpGet(b)))
	commit("nested", txn().Then(
		clientv3.OpTxn([]clientv3.Cmp{clientv3util.KeyExists(a)}, []clientv3.Op{clientv3.OpDelete(a), clientv3.OpGet(a)}, nil), clientv3.OpGet(b)))
	commit("twice", txn().Then(clientv3.OpPut(a, "1"), clientv3.OpPut(a, "2")))
	commit("put and deleted", txn().Then(clientv3.OpPut(a, "1"), clientv3.OpDelete(r.key(""), clientv3.WithPrefix())))
	commit("nothing", txn())
	r.found("left", got(r.client.Get(r.ctx, r.key(""), clientv3.WithPrefix())))
}

func compaction(r *run) {
	for range 4 {
		got(r.client.Put(r.ctx, r.key("a"), "1"))
	}
	got(r.client.Delete(r.ctx, r.key("a")))
	now := got(r.client.Put(r.ctx, r.key("b"), "1")).Header.Revision
	got(r.client.Compact(r.ctx, now-2, clientv3.WithCompactPhysical()))
	_, err := r.client.Compact(r.ctx, now-2)
	r.say("again: %s", refused(err))
	_, err = r.client.Compact(r.ctx, now+1000)
	r.say("of the future: %s", refused(err))
	_, err = r.client.Get(r.ctx, r.key("a"), clientv3.WithRev(now-3))
	r.say("past: %s", refused(err))
	r.found("kept", got(r.client.Get(r.ctx, r.key("a"), clientv3.WithRev(now-2))))
	_, err = r.client.Txn(r.ctx).Then(clientv3.OpPut(r.key("a"), "2"), clientv3.OpGet(r.key("a"), clientv3.WithRev(now-3))).Commit()
	r.say("in a transaction: %s", refused(err))
	for answer := range r.client.Watch(r.ctx, r.key("a"), clientv3.WithRev(now-4)) {
		r.say("watch: canceled %v compacted %s %s", answer.Canceled, r.rev(answer.CompactRevision), refused(answer.Err()))
	}
	r.found("unchanged", got(r.client.Get(r.ctx, r.key(""), clientv3.WithPrefix())))
}

// The interface that Kubernetes has of its keys.
func kubernetesKeys(r *run) {
	client := got(kubernetes.New(clientv3.Config{Endpoints: r.endpoints}))
	defer client.Close()
	put := func(title, key string, expected int64, failing bool) int64 {
		answer := got(client.OptimisticPut(r.ctx, r.key(key), []byte(title), expected, kubernetes.PutOptions{GetOnFailure: failing}))
		r.say("%s: %v at %s %s", title, answer.Succeeded, r.rev(answer.Revision), r.pair(answer.KV))
		return answer.Revision
	}
	made := put("made", "pods/a", 0, true)
	put("made again", "pods/a", 0, true)
	changed := put("changed", "pods/a", made, true)
	put("changed too late", "pods/a", made, true)
	put("too late, unasked", "pods/a", made, false)
	for index := range 5 {
		put("more", fmt.Sprintf("pods/b%d", index), 0, false)
	}
	page := got(client.List(r.ctx, r.key("pods/"), kubernetes.ListOptions{Limit: 2}))
	for {
		for _, pair := range page.Kvs {
			r.say("listed of %d at %s: %s", page.Count, r.rev(page.Revision), r.pair(pair))
		}
		if page.Count <= int64(len(page.Kvs)) {
			break
		}
		next := string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		page = got(client.List(r.ctx, r.key("pods/"), kubernetes.ListOptions{Limit: 2, Revision: page.Revision, Continue: next}))
	}
	r.say("counted %d", got(client.Count(r.ctx, r.key("pods/"), kubernetes.CountOptions{})))
	past := got(client.Get(r.ctx, r.key("pods/a"), kubernetes.GetOptions{Revision: made}))
	r.say("past: at %s %s", r.rev(past.Revision), r.pair(past.KV))
	gone := got(client.OptimisticDelete(r.ctx, r.key("pods/a"), made, kubernetes.DeleteOptions{GetOnFailure: true}))
	r.say("deleted too late: %v %s", gone.Succeeded, r.pair(gone.KV))
	gone = got(client.OptimisticDelete(r.ctx, r.key("pods/a"), changed, kubernetes.DeleteOptions{}))
	r.say("deleted: %v at %s", gone.Succeeded, r.rev(gone.Revision))
}

// What is too much: in the client's eyes, and in the server's.
func limits(r *run) {
	puts := make([]clientv3.Op, 129)
	for index := range puts {
		puts[index] = clientv3.OpPut(r.key(fmt.Sprint(index)), "1")
	}
	_, err := r.client.Txn(r.ctx).Then(puts...).Commit()
	r.say("129 in a transaction: %s", refused(err))
	_, err = r.client.Txn(r.ctx).Then(puts[1:]...).Commit()
	r.say("128 in a transaction: %s", refused(err))
	for _, size := range []int{1_500_000, 1_572_864, 1_600_000, 2_100_000} {
		_, err = r.client.Put(r.ctx, r.key("big"), strings.Repeat("x", size))
		r.say("a value of %d: %s", size, refused(err))
	}
	r.say("left %d", got(r.client.Get(r.ctx, r.key(""), clientv3.WithPrefix(), clientv3.WithCountOnly())).Count)
}
