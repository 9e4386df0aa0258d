// Kubernetes' own tests of its API server's storage (k8s.io/apiserver/pkg/storage/testing), against a server that runs already. Each begins
// with no key of Kubernetes' in it.
//
//	kubernetes -endpoint=<host:port> [-test.v] [-test.run=<pattern>]
package main

import (
	"context"
	"flag"
	"regexp"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/utils/clock"
)

const transformed = "test!"

var (
	endpoint = flag.String("endpoint", "127.0.0.1:2379", "of the server under test")
	scheme   = runtime.NewScheme()
	codecs   = serializer.NewCodecFactory(scheme)
	codec    = codecs.LegacyCodec(examplev1.SchemeGroupVersion)
)

// A store on the server under test, as the API server makes one for pods.
type setup struct {
	ctx     context.Context
	client  *kubernetes.Client
	store   storage.Interface
	watched interface {
		RequestWatchProgress(ctx context.Context) error
		CompactRevision() int64
	}
}

func begin(t *testing.T) *setup {
	client, err := kubernetes.New(clientv3.Config{Endpoints: []string{*endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	ctx := context.Background()
	if _, err = client.KV.Delete(ctx, "/", clientv3.WithRange("0")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"compact_rev_key", "increaseRV"} {
		if _, err = client.KV.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	recorder := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.KV = storagetesting.NewKVRecorder(client.KV, recorder)
	client.Kubernetes = recorder
	compactor := etcd3.NewCompactor(client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1
	versioner := storage.APIObjectVersioner{}
	store, err := etcd3.New(client, compactor, codec, func() runtime.Object { return &example.Pod{} },
		func() runtime.Object { return &example.PodList{} }, "", "/pods/", schema.GroupResource{Resource: "pods"},
		storagetesting.NewPrefixTransformer([]byte(transformed), false), leases, etcd3.NewDefaultDecoder(codec, versioner), versioner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return &setup{ctx, client, store, store}
}

// What is stored says nothing of when it was stored.
func (s *setup) stored(ctx context.Context, t *testing.T, key string) {
	found, err := s.client.KV.Get(ctx, key)
	if err != nil || len(found.Kvs) != 1 {
		t.Fatalf("%s: %v %v", key, found, err)
	}
	object, err := runtime.Decode(codec, found.Kvs[0].Value[len(transformed):])
	if err != nil {
		t.Fatal(err)
	}
	if pod := object.(*example.Pod); pod.ResourceVersion != "" || pod.SelfLink != "" {
		t.Errorf("%s: stored with %q %q", key, pod.ResourceVersion, pod.SelfLink)
	}
}

func (s *setup) increase(ctx context.Context, t *testing.T) int64 {
	answer, err := s.client.KV.Put(ctx, "increaseRV", "ok")
	if err != nil {
		t.Fatal(err)
	}
	return answer.Header.Revision
}

func (s *setup) compact(ctx context.Context, t *testing.T, version string) {
	revision, err := storage.APIObjectVersioner{}.ParseResourceVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	// the first only tells which version of compact_rev_key to expect
	current, _, _, err := etcd3.Compact(ctx, s.client.Client, 0, int64(revision))
	if err != nil {
		_, _, _, err = etcd3.Compact(ctx, s.client.Client, current, int64(revision))
	}
	if err != nil {
		t.Fatal(err)
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		err = wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
			return s.watched.CompactRevision() == int64(revision), nil
		})
		if err != nil {
			t.Fatal("the compaction was not seen: ", err)
		}
	}
}

// The server sends progress only every ten minutes by itself: the API server asks for it.
func (s *setup) progress(t *testing.T) {
	ctx, cancel := context.WithCancel(s.ctx)
	t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			// the watch that is asked has the context that the store gave it
			_ = s.watched.RequestWatchProgress(ctx)
			time.Sleep(100 * time.Millisecond)
		}
	}()
}

type plain = func(context.Context, *testing.T, storage.Interface)

func tests() []testing.InternalTest {
	listed := []testing.InternalTest{}
	add := func(name string, test func(*testing.T, *setup)) {
		listed = append(listed, testing.InternalTest{Name: name, F: func(t *testing.T) { test(t, begin(t)) }})
	}
	simple := func(name string, test plain) {
		add(name, func(t *testing.T, s *setup) { test(s.ctx, t, s.store) })
	}
	add("Create", func(t *testing.T, s *setup) { storagetesting.RunTestCreate(s.ctx, t, s.store, s.stored) })
	simple("CreateWithTTL", storagetesting.RunTestCreateWithTTL)
	simple("CreateWithKeyExist", storagetesting.RunTestCreateWithKeyExist)
	simple("Get", storagetesting.RunTestGet)
	simple("UnconditionalDelete", storagetesting.RunTestUnconditionalDelete)
	simple("ConditionalDelete", storagetesting.RunTestConditionalDelete)
	simple("DeleteWithSuggestion", storagetesting.RunTestDeleteWithSuggestion)
	simple("DeleteWithSuggestionAndConflict", storagetesting.RunTestDeleteWithSuggestionAndConflict)
	simple("DeleteWithConflict", storagetesting.RunTestDeleteWithConflict)
	simple("DeleteWithSuggestionOfDeletedObject", storagetesting.RunTestDeleteWithSuggestionOfDeletedObject)
	simple("ValidateDeletionWithSuggestion", storagetesting.RunTestValidateDeletionWithSuggestion)
	simple("ValidateDeletionWithOnlySuggestionValid", storagetesting.RunTestValidateDeletionWithOnlySuggestionValid)
	simple("PreconditionalDeleteWithSuggestion", storagetesting.RunTestPreconditionalDeleteWithSuggestion)
	simple("PreconditionalDeleteWithOnlySuggestionPass", storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass)
	simple("GuaranteedUpdateWithTTL", storagetesting.RunTestGuaranteedUpdateWithTTL)
	simple("GuaranteedUpdateWithConflict", storagetesting.RunTestGuaranteedUpdateWithConflict)
	simple("GuaranteedUpdateWithSuggestionAndConflict", storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict)
	simple("ListPaging", storagetesting.RunTestListPaging)
	simple("GetListRecursivePrefix", storagetesting.RunTestGetListRecursivePrefix)
	simple("KeySchema", storagetesting.RunTestKeySchema)
	simple("NamespaceScopedList", storagetesting.RunTestNamespaceScopedList)
	add("GetListNonRecursive", func(t *testing.T, s *setup) { storagetesting.RunTestGetListNonRecursive(s.ctx, t, s.increase, s.store) })
	any := func(*testing.T, uint64, uint64) {}
	add("ListContinuation", func(t *testing.T, s *setup) { storagetesting.RunTestListContinuation(s.ctx, t, s.store, any) })
	add("ListPaginationRareObject", func(t *testing.T, s *setup) { storagetesting.RunTestListPaginationRareObject(s.ctx, t, s.store, any) })
	add("ListContinuationWithFilter", func(t *testing.T, s *setup) { storagetesting.RunTestListContinuationWithFilter(s.ctx, t, s.store, any) })
	simple("Watch", storagetesting.RunTestWatch)
	simple("WatchDeleteEventObjectHaveLatestRV", storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV)
	simple("ClusterScopedWatch", storagetesting.RunTestClusterScopedWatch)
	simple("NamespaceScopedWatch", storagetesting.RunTestNamespaceScopedWatch)
	simple("DeleteTriggerWatch", storagetesting.RunTestDeleteTriggerWatch)
	simple("WatchFromNonZero", storagetesting.RunTestWatchFromNonZero)
	simple("DelayedWatchDelivery", storagetesting.RunTestDelayedWatchDelivery)
	simple("WatchContextCancel", storagetesting.RunTestWatchContextCancel)
	simple("WatcherTimeout", storagetesting.RunTestWatcherTimeout)
	simple("WatchInitializationSignal", storagetesting.RunTestWatchInitializationSignal)
	simple("SendInitialEventsBackwardCompatibility", storagetesting.RunSendInitialEventsBackwardCompatibility)
	simple("WatchSemantics", storagetesting.RunWatchSemantics)
	simple("WatchSemanticInitialEventsExtended", storagetesting.RunWatchSemanticInitialEventsExtended)
	simple("WatchListMatchSingle", storagetesting.RunWatchListMatchSingle)
	add("ConsistentList", func(t *testing.T, s *setup) {
		storagetesting.RunTestConsistentList(s.ctx, t, s.store, s.increase, false, true, false)
	})
	add("ProgressNotify", func(t *testing.T, s *setup) {
		s.progress(t)
		storagetesting.RunOptionalTestProgressNotify(s.ctx, t, s.store, s.increase)
	})
	// from here on history is compacted, also for those that follow
	add("WatchFromZero", func(t *testing.T, s *setup) { storagetesting.RunTestWatchFromZero(s.ctx, t, s.store, s.compact) })
	add("CompactRevision", func(t *testing.T, s *setup) {
		storagetesting.RunTestCompactRevision(s.ctx, t, s.store, s.increase, s.compact)
	})
	add("ListInconsistentContinuation", func(t *testing.T, s *setup) {
		storagetesting.RunTestListInconsistentContinuation(s.ctx, t, s.store, s.compact)
	})
	add("List", func(t *testing.T, s *setup) {
		storagetesting.RunTestList(s.ctx, t, s.store, s.compact, false, s.client.Kubernetes.(*storagetesting.KubernetesRecorder))
	})
	return listed
}

func main() {
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	testing.Init()
	flag.Parse()
	testing.Main(regexp.MatchString, tests(), nil, nil)
}
