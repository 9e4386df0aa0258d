// Locks, elections and transactions as a Go program does them: etcd's package concurrency, and the lock and election services through their
// own stubs. Prints one line per finding, without ids that a server makes up, so that two servers' lines can be compared.
//
//	concurrency <host:port>
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/status"
)

const (
	sessions   = 4
	increments = 25
	moment     = 300 * time.Millisecond
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func connect(endpoint string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	must(err)
	return client
}

func session(client *clientv3.Client) *concurrency.Session {
	made, err := concurrency.NewSession(client, concurrency.WithTTL(10))
	must(err)
	return made
}

func count(ctx context.Context, client *clientv3.Client, prefix string) int64 {
	found, err := client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	must(err)
	return found.Count
}

func waitCount(ctx context.Context, client *clientv3.Client, prefix string, wanted int64) {
	for count(ctx, client, prefix) != wanted {
		time.Sleep(10 * time.Millisecond)
		must(ctx.Err())
	}
}

// Read, add one, write: lost updates show that two were inside at once.
func mutexes(ctx context.Context, endpoint string) {
	var waiting sync.WaitGroup
	var inside, most atomic.Int32
	for range sessions {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			client := connect(endpoint)
			defer client.Close()
			own := session(client)
			defer own.Close()
			mutex := concurrency.NewMutex(own, "mutex")
			for range increments {
				must(mutex.Lock(ctx))
				if now := inside.Add(1); now > most.Load() {
					most.Store(now)
				}
				found, err := client.Get(ctx, "counter")
				must(err)
				value := 0
				if len(found.Kvs) > 0 {
					value, err = strconv.Atoi(string(found.Kvs[0].Value))
					must(err)
				}
				_, err = client.Put(ctx, "counter", strconv.Itoa(value+1))
				must(err)
				inside.Add(-1)
				must(mutex.Unlock(ctx))
			}
		}()
	}
	waiting.Wait()
	client := connect(endpoint)
	defer client.Close()
	found, err := client.Get(ctx, "counter")
	must(err)
	fmt.Println("mutex: counter", string(found.Kvs[0].Value), "inside at most", most.Load(), "left", count(ctx, client, "mutex/"))
}

func refusals(ctx context.Context, client *clientv3.Client) {
	one, other := session(client), session(client)
	holder, waiter := concurrency.NewMutex(one, "held"), concurrency.NewMutex(other, "held")
	must(holder.Lock(ctx))
	fmt.Println("try:", waiter.TryLock(ctx), "left", count(ctx, client, "held/"))
	short, cancel := context.WithTimeout(ctx, moment)
	fmt.Println("deadline:", waiter.Lock(short), "left", count(ctx, client, "held/"))
	cancel()
	failed := make(chan error)
	go func() { failed <- waiter.Lock(ctx) }()
	waitCount(ctx, client, "held/", 2)
	_, err := client.Revoke(ctx, other.Lease())
	must(err)
	must(holder.Unlock(ctx))
	fmt.Println("revoked:", <-failed, "left", count(ctx, client, "held/"))
	guarded, err := client.Txn(ctx).If(holder.IsOwner()).Then(clientv3.OpPut("guarded", "1")).Commit()
	must(err)
	fmt.Println("owner afterwards:", guarded.Succeeded)
	must(one.Close())
	<-other.Done()
}

func elections(ctx context.Context, client *clientv3.Client) {
	one, other := session(client), session(client)
	first, second := concurrency.NewElection(one, "election"), concurrency.NewElection(other, "election")
	_, err := first.Leader(ctx)
	fmt.Println("nobody:", err)
	watching, stop := context.WithCancel(ctx)
	values := first.Observe(watching)
	must(first.Campaign(ctx, "one"))
	fmt.Println("observed", string((<-values).Kvs[0].Value))
	must(first.Proclaim(ctx, "one again"))
	fmt.Println("observed", string((<-values).Kvs[0].Value))
	elected := make(chan error)
	go func() { elected <- second.Campaign(ctx, "two") }()
	waitCount(ctx, client, "election/", 2)
	must(one.Close())
	fmt.Println("elected:", <-elected, "observed", string((<-values).Kvs[0].Value))
	fmt.Println("late:", first.Proclaim(ctx, "late"))
	stop()
	for range values {
	}
	must(second.Resign(ctx))
	must(other.Close())
}

func transactions(ctx context.Context, client *clientv3.Client) {
	for _, key := range []string{"from", "to"} {
		_, err := client.Put(ctx, key, "100")
		must(err)
	}
	var waiting sync.WaitGroup
	for range sessions {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			for range increments {
				_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
					from, _ := strconv.Atoi(stm.Get("from"))
					to, _ := strconv.Atoi(stm.Get("to"))
					stm.Put("from", strconv.Itoa(from-1))
					stm.Put("to", strconv.Itoa(to+1))
					return nil
				})
				must(err)
			}
		}()
	}
	waiting.Wait()
	from, err := client.Get(ctx, "from")
	must(err)
	to, err := client.Get(ctx, "to")
	must(err)
	fmt.Println("stm:", string(from.Kvs[0].Value), string(to.Kvs[0].Value))
}

func told(err error) string {
	found, _ := status.FromError(err)
	return fmt.Sprintf("%v %q", found.Code(), found.Message())
}

// The services, by their stubs: beside the package they see the same line.
func services(ctx context.Context, client *clientv3.Client) {
	locks, leaders := v3lockpb.NewLockClient(client.ActiveConnection()), v3electionpb.NewElectionClient(client.ActiveConnection())
	_, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("s"), Lease: 99})
	fmt.Println("no lease:", told(err))
	_, err = leaders.Proclaim(ctx, &v3electionpb.ProclaimRequest{})
	fmt.Println("no leader key:", told(err))
	_, err = leaders.Leader(ctx, &v3electionpb.LeaderRequest{Name: []byte("s")})
	fmt.Println("no leader:", told(err))
	own := session(client)
	mutex := concurrency.NewMutex(own, "s")
	must(mutex.Lock(ctx))
	short, cancel := context.WithTimeout(ctx, moment)
	_, err = locks.Lock(short, &v3lockpb.LockRequest{Name: []byte("s")})
	cancel()
	waitCount(ctx, client, "s/", 1)
	fmt.Println("held by the package:", told(err))
	must(mutex.Unlock(ctx))
	held, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("s"), Lease: int64(own.Lease())})
	must(err)
	fmt.Println("same key:", string(held.Key) == fmt.Sprintf("s/%x", own.Lease()))
	other := session(client)
	fmt.Println("held by the service:", errors.Is(concurrency.NewMutex(other, "s").TryLock(ctx), concurrency.ErrLocked))
	_, err = locks.Unlock(ctx, &v3lockpb.UnlockRequest{Key: held.Key})
	must(err)
	must(own.Close())
	must(other.Close())
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := connect(os.Args[1])
	defer client.Close()
	mutexes(ctx, os.Args[1])
	refusals(ctx, client)
	elections(ctx, client)
	transactions(ctx, client)
	services(ctx, client)
}
