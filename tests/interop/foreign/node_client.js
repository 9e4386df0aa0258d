// What programs do with etcd3 of npm.
const assert = require("assert");
const { Etcd3, EtcdLockFailedError } = require("etcd3");

async function main(address) {
  const client = new Etcd3({ hosts: `http://${address}` });
  const space = client.namespace("node/");
  await space.put("a").value("1");
  assert.strictEqual(await space.get("a").string(), "1");
  assert.strictEqual(await space.get("none").string(), null);
  await space.put("b").value("2");
  assert.deepStrictEqual(await space.getAll().prefix("").strings(), { a: "1", b: "2" });
  assert.deepStrictEqual(await space.getAll().prefix("").sort("Key", "Descend").limit(1).keys(), ["b"]);
  console.log("keys");
  const done = await space.if("a", "Value", "==", "1").then(space.put("a").value("3")).else(space.get("a")).commit();
  assert(done.succeeded);
  await space.stm({ retries: 5 }).transact(async (tx) => tx.put("a").value(String(Number(await tx.get("a").string()) + 1)));
  assert.strictEqual(await space.get("a").string(), "4");
  console.log("transactions");
  const watcher = await space.watch().prefix("w").create();
  const seen = [];
  const ended = new Promise((resolve) => {
    watcher.on("put", (pair) => seen.push(`put ${pair.key} ${pair.value}`));
    watcher.on("delete", (pair) => resolve(seen.push(`delete ${pair.key}`)));
  });
  await space.put("w1").value("x");
  await space.delete().key("w1");
  await ended;
  assert.deepStrictEqual(seen, ["put w1 x", "delete w1"]);
  await watcher.cancel();
  console.log("watch");
  const lease = client.lease(30);
  await lease.put("node/leased").value("1");
  await lease.keepaliveOnce();
  await lease.revoke();
  assert.strictEqual(await space.get("leased").string(), null);
  console.log("leases");
  const lock = await client.lock("node/lock").ttl(10).acquire();
  await assert.rejects(client.lock("node/lock").ttl(10).acquire(), EtcdLockFailedError);
  await lock.release();
  const election = client.election("node/election", 10);
  const campaign = election.campaign("me");
  await new Promise((resolve, reject) => campaign.on("elected", resolve).on("error", reject));
  assert.strictEqual(await election.leader(), "me");
  await campaign.resign();
  console.log("locks");
  const members = await client.cluster.memberList({});
  assert([1, 3].includes(members.members.length));
  assert.strictEqual((await client.maintenance.status()).version, "3.7.1");
  await space.delete().all();
  client.close();
  console.log("cluster");
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
