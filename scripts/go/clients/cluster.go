package main

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"
)

// With authentication on for a moment: the client gets itself tokens, and new ones when the old are worth nothing.
func users(r *run) {
	got(r.client.UserAdd(r.ctx, "root", "pw"))
	got(r.client.RoleAdd(r.ctx, "root"))
	got(r.client.UserGrantRole(r.ctx, "root", "root"))
	got(r.client.UserAdd(r.ctx, "ann", "pw"))
	got(r.client.RoleAdd(r.ctx, "keys"))
	got(r.client.RoleGrantPermission(r.ctx, "keys", r.key("a"), clientv3.GetPrefixRangeEnd(r.key("a")), clientv3.PermissionType(clientv3.PermReadWrite)))
	got(r.client.UserGrantRole(r.ctx, "ann", "keys"))
	got(r.client.AuthEnable(r.ctx))
	as := func(name, password string) *clientv3.Client {
		return got(clientv3.New(clientv3.Config{Endpoints: r.endpoints, Username: name, Password: password, Logger: zap.NewNop()}))
	}
	root, ann := as("root", "pw"), as("ann", "pw")
	defer root.Close()
	defer ann.Close()
	_, err := r.client.Put(r.ctx, r.key("a"), "1")
	r.say("without a name: %s", refused(err))
	_, err = clientv3.New(clientv3.Config{Endpoints: r.endpoints, Username: "ann", Password: "wrong", Logger: zap.NewNop()})
	r.say("with a wrong password: %s", refused(err))
	r.say("ann: at %s", r.rev(got(ann.Put(r.ctx, r.key("a/1"), "1")).Header.Revision))
	_, err = ann.Put(r.ctx, r.key("b"), "1")
	r.say("ann elsewhere: %s", refused(err))
	answer := <-ann.Watch(r.ctx, r.key("b"))
	r.say("ann watches elsewhere: canceled %v %s", answer.Canceled, refused(answer.Err()))
	_, err = ann.AuthDisable(r.ctx)
	r.say("ann disables: %s", refused(err))
	got(root.RoleGrantPermission(r.ctx, "keys", r.key("b"), "", clientv3.PermissionType(clientv3.PermReadWrite)))
	// her token is of before the change: the client gets another by itself
	r.say("ann elsewhere: at %s", r.rev(got(ann.Put(r.ctx, r.key("b"), "1")).Header.Revision))
	permissions := got(root.RoleGet(r.ctx, "keys")).Perm
	r.say("permissions %d roles %v", len(permissions), got(root.UserGet(r.ctx, "ann")).Roles)
	got(root.UserChangePassword(r.ctx, "ann", "new"))
	changed := as("ann", "new")
	defer changed.Close()
	r.say("the new password: %d", got(changed.Get(r.ctx, r.key("b"))).Count)
	got(root.AuthDisable(r.ctx))
	r.say("users %v roles %v", got(r.client.UserList(r.ctx)).Users, got(r.client.RoleList(r.ctx)).Roles)
	for _, name := range []string{"ann", "root"} {
		got(r.client.UserDelete(r.ctx, name))
	}
	for _, name := range []string{"keys", "root"} {
		got(r.client.RoleDelete(r.ctx, name))
	}
}

func maintenance(r *run) {
	got(r.client.Put(r.ctx, r.key("a"), "1"))
	endpoint := r.endpoints[0]
	told := got(r.client.Status(r.ctx, endpoint))
	r.say("version %s leader %v learner %v errors %v size %v in use %v quota %d storage %s", told.Version, told.Leader != 0, told.IsLearner, told.Errors,
		told.DbSize > 0, told.DbSizeInUse > 0, told.DbSizeQuota, told.StorageVersion)
	hash := got(r.client.HashKV(r.ctx, endpoint, 0))
	r.say("hash %v at %s compacted %v", hash.Hash != 0, r.rev(hash.HashRevision), hash.CompactRevision != 0)
	_, err := r.client.HashKV(r.ctx, endpoint, 1_000_000)
	r.say("hash of the future: %s", refused(err))
	r.say("alarms %d", len(got(r.client.AlarmList(r.ctx)).Alarms))
	r.say("disarmed %d", len(got(r.client.AlarmDisarm(r.ctx, &clientv3.AlarmMember{})).Alarms))
	got(r.client.Defragment(r.ctx, endpoint))
	_, err = r.client.MoveLeader(r.ctx, 99)
	r.say("leader moves to nobody: %s", refused(err))
}

func downgrade(r *run) {
	for _, action := range []clientv3.DowngradeAction{clientv3.DowngradeValidate, clientv3.DowngradeEnable, clientv3.DowngradeCancel} {
		for _, version := range []string{"3.0.0", "3.7.0", "3.8.0", "three", ""} {
			_, err := r.client.Downgrade(r.ctx, action, version)
			r.say("%d %q: %s", action, version, refused(err))
		}
	}
	answer := got(r.client.Downgrade(r.ctx, clientv3.DowngradeValidate, "3.6.0"))
	r.say("to 3.6 from %s", answer.Version)
}

func members(r *run) {
	listed := got(r.client.MemberList(r.ctx))
	addressed := true
	for _, one := range listed.Members {
		addressed = addressed && len(one.ClientURLs) > 0 && len(one.PeerURLs) > 0 && one.Name != "" && !one.IsLearner
	}
	r.say("members with names and addresses: %v", addressed)
	must(r.client.Sync(r.ctx))
	r.say("every member is an endpoint: %v", len(r.client.Endpoints()) == len(listed.Members))
	hashes := map[uint32]bool{}
	now := got(r.client.Put(r.ctx, r.key("a"), "1")).Header.Revision
	for _, endpoint := range r.client.Endpoints() {
		until(r, "a member that lags", func() bool { return got(r.client.Status(r.ctx, endpoint)).Header.Revision >= now })
		hashes[got(r.client.HashKV(r.ctx, endpoint, now)).Hash] = true
	}
	r.say("hashes: %d", len(hashes))
	_, err := r.client.MemberAdd(r.ctx, []string{"not an address"})
	r.say("added without an address: %s", refused(err))
	_, err = r.client.MemberRemove(r.ctx, 99)
	r.say("removed who is not there: %s", refused(err))
	_, err = r.client.MemberPromote(r.ctx, listed.Members[0].ID)
	r.say("promoted who has a vote: %s", refused(err))
	_, err = r.client.MemberUpdate(r.ctx, 99, []string{"http://127.0.0.1:1"})
	r.say("updated who is not there: %s", refused(err))
}

func snapshots(r *run) {
	for range 50 {
		got(r.client.Put(r.ctx, r.key("a"), "1"))
	}
	folder := got(os.MkdirTemp("", "clients"))
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "db")
	version := got(snapshot.SaveWithVersion(r.ctx, zap.NewNop(), clientv3.Config{Endpoints: r.endpoints[:1], DialTimeout: 5 * time.Second}, path))
	data := got(os.ReadFile(path))
	content, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	digest := sha256.Sum256(content)
	r.say("version %s pages %v digest %v", version, len(content)%4096 == 0, string(digest[:]) == string(sum))
}
