// What programs do with jetcd.
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

public class Jetcd {
    static ByteSequence of(String text) {
        return ByteSequence.from(text, StandardCharsets.UTF_8);
    }

    static <T> T got(CompletableFuture<T> future) throws Exception {
        return future.get(60, TimeUnit.SECONDS);
    }

    static void same(Object seen, Object wanted) {
        if (!seen.equals(wanted)) {
            throw new AssertionError(seen + " instead of " + wanted);
        }
    }

    public static void main(String[] words) throws Exception {
        try (Client client = Client.builder().endpoints("http://" + words[0]).build()) {
            var kv = client.getKVClient();
            got(kv.put(of("java/a"), of("1")));
            got(kv.put(of("java/b"), of("2")));
            GetResponse found = got(kv.get(of("java/"), GetOption.builder().isPrefix(true).build()));
            same(found.getCount(), 2L);
            same(found.getKvs().get(1).getValue().toString(), "2");
            System.out.println("keys");
            var done = got(kv.txn().If(new Cmp(of("java/a"), Cmp.Op.EQUAL, CmpTarget.value(of("1"))))
                .Then(Op.put(of("java/a"), of("3"), PutOption.DEFAULT), Op.get(of("java/a"), GetOption.DEFAULT)).commit());
            same(done.isSucceeded(), true);
            same(done.getGetResponses().get(0).getKvs().get(0).getValue().toString(), "3");
            System.out.println("transactions");
            var events = new LinkedBlockingQueue<WatchEvent>();
            long begin = done.getHeader().getRevision();
            got(kv.put(of("java/a"), of("4")));
            got(kv.delete(of("java/a")));
            var option = WatchOption.builder().isPrefix(true).withRevision(begin).withPrevKV(true).build();
            try (Watch.Watcher watcher = client.getWatchClient().watch(of("java/"), option, answer -> events.addAll(answer.getEvents()))) {
                for (var wanted : List.of(WatchEvent.EventType.PUT, WatchEvent.EventType.PUT, WatchEvent.EventType.DELETE)) {
                    same(events.poll(60, TimeUnit.SECONDS).getEventType(), wanted);
                }
            }
            System.out.println("watch");
            var leases = client.getLeaseClient();
            long lease = got(leases.grant(60)).getID();
            got(kv.put(of("java/leased"), of("1"), PutOption.builder().withLeaseId(lease).build()));
            same(got(leases.keepAliveOnce(lease)).getTTL(), 60L);
            same(got(leases.timeToLive(lease, LeaseOption.builder().withAttachedKeys().build())).getKeys().size(), 1);
            var locks = client.getLockClient();
            ByteSequence held = got(locks.lock(of("java/lock"), lease)).getKey();
            got(locks.unlock(held));
            var elections = client.getElectionClient();
            var leader = got(elections.campaign(of("java/election"), lease, of("me"))).getLeader();
            same(got(elections.leader(of("java/election"))).getKv().getValue().toString(), "me");
            got(elections.resign(leader));
            System.out.println("locks");
            got(leases.revoke(lease));
            same(got(kv.get(of("java/leased"))).getCount(), 0L);
            System.out.println("leases");
            int members = got(client.getClusterClient().listMember()).getMembers().size();
            same(members == 1 || members == 3, true);
            same(got(client.getMaintenanceClient().statusMember("http://" + words[0])).getVersion(), "3.7.1");
            got(kv.delete(of("java/"), DeleteOption.builder().isPrefix(true).build()));
            System.out.println("cluster");
        }
    }
}
