package main

import (
	"sync"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func session(r *run, client *clientv3.Client) *concurrency.Session {
	return got(concurrency.NewSession(client, concurrency.WithTTL(60), concurrency.WithContext(r.ctx)))
}

func sessions(r *run) {
	second := connect(r.endpoints...)
	defer second.Close()
	one, other := session(r, r.client), session(r, second)
	first, next := concurrency.NewMutex(one, r.key("mutex")), concurrency.NewMutex(other, r.key("mutex"))
	must(first.Lock(r.ctx))
	r.say("try: %v", next.TryLock(r.ctx))
	let := make(chan error)
	go func() { let <- next.Lock(r.ctx) }()
	must(first.Unlock(r.ctx))
	r.say("let in: %v", <-let)
	leader, candidate := concurrency.NewElection(one, r.key("election")), concurrency.NewElection(other, r.key("election"))
	must(leader.Campaign(r.ctx, "one"))
	must(leader.Proclaim(r.ctx, "one again"))
	r.say("leader: %s", got(candidate.Leader(r.ctx)).Kvs[0].Value)
	go func() { let <- candidate.Campaign(r.ctx, "other") }()
	must(one.Close()) // revokes its lease
	r.say("elected: %v", <-let)
	<-one.Done()
	r.say("leader: %s", got(candidate.Leader(r.ctx)).Kvs[0].Value)
	other.Orphan()
	<-other.Done()
	r.say("orphaned, lease kept: %v", got(r.client.TimeToLive(r.ctx, other.Lease())).TTL > 0)
	got(r.client.Revoke(r.ctx, other.Lease()))
	again := session(r, r.client)
	resumed := concurrency.NewMutex(again, r.key("mutex"))
	must(resumed.TryLock(r.ctx))
	r.say("owner: %v", got(r.client.Txn(r.ctx).If(resumed.IsOwner()).Commit()).Succeeded)
	must(again.Close())
}

func queues(r *run) {
	queue, ranked := recipe.NewQueue(r.client, r.key("queue")), recipe.NewPriorityQueue(r.client, r.key("ranked"))
	for rank, value := range []string{"a", "b", "c"} {
		must(queue.Enqueue(value))
		must(ranked.Enqueue(value, uint16(9-rank)))
	}
	for range 3 {
		r.say("queue %s ranked %s", got(queue.Dequeue()), got(ranked.Dequeue()))
	}
	waiting := make(chan string)
	go func() { waiting <- got(queue.Dequeue()) }()
	must(queue.Enqueue("late"))
	r.say("waited for %s", <-waiting)
}

func barriers(r *run) {
	barrier := recipe.NewBarrier(r.client, r.key("barrier"))
	must(barrier.Hold())
	passed := make(chan error)
	go func() { passed <- barrier.Wait() }()
	must(barrier.Release())
	r.say("passed: %v", <-passed)
	var inside, most atomic.Int32
	var done sync.WaitGroup
	for range 3 {
		done.Add(1)
		go func() {
			defer done.Done()
			own := session(r, r.client)
			defer own.Close()
			double := recipe.NewDoubleBarrier(own, r.key("double"), 3)
			must(double.Enter())
			if now := inside.Add(1); now > most.Load() {
				most.Store(now)
			}
			must(double.Leave())
		}()
	}
	done.Wait()
	r.say("entered %d", inside.Load())
}

func readers(r *run) {
	var inside atomic.Int32
	var done sync.WaitGroup
	for index := range 4 {
		done.Add(1)
		go func() {
			defer done.Done()
			own := session(r, r.client)
			defer own.Close()
			mutex := recipe.NewRWMutex(own, r.key("rw"))
			for range 5 {
				if index%2 == 0 {
					must(mutex.RLock())
					if inside.Add(1) > 100 {
						panic("a reader beside a writer")
					}
					inside.Add(-1)
					must(mutex.RUnlock())
				} else {
					must(mutex.Lock())
					if inside.Add(1000) != 1000 {
						panic("a writer beside somebody")
					}
					inside.Add(-1000)
					must(mutex.Unlock())
				}
			}
		}()
	}
	done.Wait()
	r.say("no writer beside anybody, left %d", got(r.client.Get(r.ctx, r.key("rw"), clientv3.WithPrefix(), clientv3.WithCountOnly())).Count)
}

// gRPC's names from keys: a connection to a service is a connection to who is listed there.
func names(r *run) {
	manager := got(endpoints.NewManager(r.client, r.key("service")))
	watch := got(manager.NewWatchChannel(r.ctx))
	must(manager.AddEndpoint(r.ctx, r.key("service/one"), endpoints.Endpoint{Addr: r.endpoints[0], Metadata: "one"}))
	for _, update := range <-watch {
		r.say("update %v %v", update.Op, update.Endpoint.Metadata)
	}
	r.say("listed %d", len(got(manager.List(r.ctx))))
	builder := got(resolver.NewBuilder(r.client))
	made := got(grpc.NewClient("etcd:///"+r.key("service"), grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials())))
	defer made.Close()
	health := got(grpc_health_v1.NewHealthClient(made).Check(r.ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true)))
	r.say("served: %v", health.Status)
	must(manager.DeleteEndpoint(r.ctx, r.key("service/one")))
	for _, update := range <-watch {
		r.say("update %v", update.Op)
	}
}
