// What Go programs do with etcd's client package and those built on it. Prints one line per finding: ids that a server makes up are left
// out, and revisions are counted from the moment in which the feature began, so that the lines of two servers can be compared.
//
//	clients list
//	clients <feature> <host:port>[,<host:port>...]
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"
)

const longest = 2 * time.Minute

// One run of one feature: all its keys are below its name.
type run struct {
	ctx       context.Context
	client    *clientv3.Client
	endpoints []string
	base      int64
	name      string
}

var features = map[string]func(*run){
	"keys": keys, "ranges": ranges, "streams": streams, "transactions": transactions, "leases": leases,
	"watches": watches, "compaction": compaction, "namespace": namespaces, "leasing": leasings, "ordering": orderings, "mirror": mirrors,
	"isolation": isolation, "sessions": sessions, "queues": queues, "barriers": barriers, "readers": readers, "names": names,
	"kubernetes": kubernetesKeys, "users": users, "maintenance": maintenance, "members": members, "snapshot": snapshots,
	"limits": limits, "downgrade": downgrade, "follow": follow, "reconnection": reconnections,
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func got[T any](value T, err error) T {
	must(err)
	return value
}

func connect(endpoints ...string) *clientv3.Client {
	return got(clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()}))
}

func (r *run) key(name string) string { return r.name + "/" + name }

func (r *run) say(format string, values ...any) { fmt.Printf(format+"\n", values...) }

// A revision, counted from when the feature began.
func (r *run) rev(revision int64) string {
	if revision == 0 {
		return "0"
	}
	return fmt.Sprintf("%+d", revision-r.base)
}

func (r *run) pair(pair *mvccpb.KeyValue) string {
	if pair == nil {
		return "none"
	}
	leased := ""
	if pair.Lease != 0 {
		leased = " leased"
	}
	return fmt.Sprintf("%q=%q c%s m%s v%d%s", pair.Key, pair.Value, r.rev(pair.CreateRevision), r.rev(pair.ModRevision), pair.Version, leased)
}

func (r *run) found(title string, answer *clientv3.GetResponse) {
	told := make([]string, 0, len(answer.Kvs))
	for _, pair := range answer.Kvs {
		told = append(told, r.pair(pair))
	}
	r.say("%s: at %s count %d more %v [%s]", title, r.rev(answer.Header.Revision), answer.Count, answer.More, strings.Join(told, ", "))
}

// What a client sees of an error: its class in the package, and what came over the wire.
func refused(err error) string {
	if err == nil {
		return "OK"
	}
	found, _ := status.FromError(err)
	return fmt.Sprintf("%T %v %q", err, found.Code(), err.Error())
}

func until(r *run, what string, holds func() bool) {
	for !holds() {
		if r.ctx.Err() != nil {
			panic("waited in vain for " + what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

var orders = bufio.NewScanner(os.Stdin)

// The next line that whoever runs the program says.
func ordered() string {
	if !orders.Scan() {
		panic("nobody says what to do")
	}
	return orders.Text()
}

func listed() []string {
	names := make([]string, 0, len(features))
	for name := range features {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "list" {
		fmt.Println(strings.Join(listed(), "\n"))
		return
	}
	feature, known := features[os.Args[1]]
	if !known || len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "clients <feature> <endpoints>; features:", strings.Join(listed(), " "))
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	endpoints := strings.Split(os.Args[2], ",")
	client := connect(endpoints...)
	defer client.Close()
	start := got(client.Get(ctx, os.Args[1]+"/", clientv3.WithPrefix(), clientv3.WithCountOnly()))
	if start.Count != 0 {
		panic("this server has seen the feature before")
	}
	feature(&run{ctx: ctx, client: client, endpoints: endpoints, base: start.Header.Revision, name: os.Args[1]})
}
