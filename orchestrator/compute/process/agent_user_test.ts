import assert from "node:assert/strict";
import { join } from "node:path";
import { RbsError } from "../../../proto/base/errors.ts";
import { tempDirSync } from "../../../tests/support/temp_dir.ts";
import { type AgentUser, checkWay, findAgentUser, makeStorage, openStorageRoot, removeStorage } from "./agent_user.ts";

const PASSWD = `root:x:0:0:root:/root:/bin/bash
toor:x:0:0::/root:/bin/sh
builder:x:1500:1501:Builds,,,:/home/builder:/usr/sbin/nologin
staff:x:1502:0::/home/staff:/bin/sh
homeless:x:1503:1503:::/bin/sh
+nis
`;
const NOBODY: AgentUser = { name: "nobody", uid: 65534, gid: 65534, home: "/nonexistent" };
const isRoot = Deno.uid() === 0;

Deno.test("an agents' user is found by name, or given by numbers", () => {
  const find = (name: string) => findAgentUser(name, () => PASSWD);
  assert.deepEqual(find("builder"), { name: "builder", uid: 1500, gid: 1501, home: "/home/builder" });
  assert.equal(find("homeless").home, "/");
  assert.deepEqual(find("1600:1700"), { name: "1600:1700", uid: 1600, gid: 1700, home: "/" });
  for (const root of ["root", "toor", "staff", "0:0", "0:5", "5:0"]) {
    assert.throws(() => find(root), { message: new RegExp(`Agents cannot run as ${root}, who is root`) });
  }
  for (const none of ["build", "+nis", "", "1600", "builder:x", "-1:5"]) {
    assert.throws(() => find(none), (e) => e instanceof RbsError && /There is no user "/.test(e.message), none);
  }
  for (const large of ["4294967295:5", "4294967296:5", "5:2147483648"]) {
    assert.throws(() => find(large), { message: /end at 2147483647/ });
  }
  const unreadable = () => {
    throw new Deno.errors.PermissionDenied("no");
  };
  assert.throws(() => findAgentUser("builder", unreadable), { message: /say uid:gid with --agent-user/ });
  assert.equal(findAgentUser("7:8", unreadable).uid, 7);
});

Deno.test({
  name: "agents' storage is their user's, and what is above it root's; it is never taken from another user",
  ignore: !isRoot,
  fn() {
    using temp = tempDirSync();
    Deno.chmodSync(temp.path, 0o711);
    const [storageRoot, stateDir] = [join(temp.path, "storage"), join(temp.path, "state")];
    Deno.mkdirSync(storageRoot, { mode: 0o700 });
    Deno.mkdirSync(stateDir, { mode: 0o700 });
    openStorageRoot(NOBODY, { storageRoot, stateDir });
    const directory = join(storageRoot, "ann/0123");
    for (let twice = 0; twice < 2; twice++) makeStorage(directory, NOBODY);
    const of = (path: string) => {
      const { uid, gid, mode } = Deno.lstatSync(path);
      return [uid, gid, (mode! & 0o7777).toString(8)];
    };
    assert.deepEqual(of(storageRoot), [0, 0, "711"]);
    assert.deepEqual(of(join(storageRoot, "ann")), [0, 0, "711"]);
    assert.deepEqual(of(directory), [65534, 65534, "700"]);

    const roots = join(storageRoot, "ann/4567");
    Deno.mkdirSync(roots);
    Deno.writeTextFileSync(join(roots, "file"), "");
    assert.throws(() => makeStorage(roots, NOBODY), { message: "it belongs to uid 0, and agents run as nobody" });
    Deno.symlinkSync(stateDir, join(storageRoot, "ann/89ab"));
    assert.throws(() => makeStorage(join(storageRoot, "ann/89ab"), NOBODY), { message: /it belongs to uid 0/ });
    assert.deepEqual(of(stateDir), [0, 0, "700"]);
    // A link of the user's own, made while a folder was that user's.
    Deno.chownSync(join(storageRoot, "ann"), 65534, 65534);
    assert.throws(() => makeStorage(join(storageRoot, "ann/cdef"), NOBODY), { message: /is not root's alone/ });
    Deno.symlinkSync(stateDir, join(storageRoot, "bob"));
    assert.throws(() => makeStorage(join(storageRoot, "bob/0123"), NOBODY), { message: /is not root's alone/ });
    assert.deepEqual(of(stateDir), [0, 0, "700"]);
    assert.deepEqual([...Deno.readDirSync(stateDir)], []);
  },
});

Deno.test({
  name: "what agents' user has left goes, however deep, and nothing that it leads to",
  ignore: !isRoot,
  async fn() {
    using temp = tempDirSync();
    Deno.chmodSync(temp.path, 0o711);
    const directory = join(temp.path, "warm/0123"), outside = join(temp.path, "outside");
    makeStorage(directory, NOBODY);
    Deno.mkdirSync(outside);
    Deno.writeTextFileSync(join(outside, "file"), "");
    Deno.writeTextFileSync(join(directory, "agent.log"), "");
    const left = 'cd "$0" && ln -s "$1" link && perl -e \'for (1..3000) { mkdir "d"; chdir "d" } \'';
    await new Deno.Command("sh", { args: ["-c", left, directory, outside], uid: 65534, gid: 65534, cwd: "/" }).output();
    await removeStorage(directory, NOBODY);
    assert.deepEqual([...Deno.readDirSync(join(temp.path, "warm"))], []);
    assert.equal([...Deno.readDirSync(outside)].length, 1);
  },
});

Deno.test({
  name: "the agents' user can neither hold up a removal nor read our environment in it, and need not enter our folder",
  ignore: !isRoot,
  async fn() {
    using temp = tempDirSync();
    Deno.chmodSync(temp.path, 0o711);
    const directory = join(temp.path, "warm/0123"), closed = join(temp.path, "closed"), seen = join(temp.path, "seen");
    makeStorage(directory, NOBODY);
    Deno.mkdirSync(closed, { mode: 0o700 });
    Deno.mkdirSync(seen);
    Deno.chmodSync(seen, 0o777);
    // Holds the `rm` of this folder, and tells what it sees of it.
    const script = `for ((;;)); do for pid in $(pgrep -u 65534 -f "rm -rf -- $1"); do
      kill -STOP $pid && tr '\\0' '\\n' < /proc/$pid/environ > "$0/environ"; done; sleep 0.01; done`;
    const holder = new Deno.Command("bash", { args: ["-c", script, seen, directory], uid: 65534, gid: 65534, cwd: "/" })
      .spawn();
    const before = Deno.cwd();
    Deno.env.set("RBS_TEST_SECRET", "hunter2");
    try {
      Deno.chdir(closed);
      await new Deno.Command("sh", {
        args: ["-c", 'cd "$0" && for i in $(seq 20000); do : > "$i"; done', directory],
        ...{ uid: 65534, gid: 65534, cwd: "/" },
      }).output();
      await removeStorage(directory, NOBODY, 3_000).catch(() => {});
      assert.doesNotMatch(Deno.readTextFileSync(join(seen, "environ")), /hunter2/);
    } finally {
      Deno.chdir(before);
      Deno.env.delete("RBS_TEST_SECRET");
      holder.kill("SIGKILL");
      await holder.status;
    }
    await removeStorage(directory, NOBODY);
    assert.deepEqual([...Deno.readDirSync(join(temp.path, "warm"))], []);
  },
});

Deno.test({
  name: "a storage root that the agents' user cannot get at is refused",
  ignore: !isRoot,
  fn() {
    using temp = tempDirSync();
    const stateDir = join(temp.path, "state");
    const storageRoot = join(temp.path, "deep/storage");
    const folders = [join(stateDir, "storage"), storageRoot, join(temp.path, "other")];
    for (const folder of folders) Deno.mkdirSync(folder, { recursive: true });
    const refuses = (storageRoot: string, message: RegExp, more: { stateDir?: string; storeFile?: string } = {}) =>
      assert.throws(() => openStorageRoot(NOBODY, { storageRoot, stateDir, ...more }), { message });
    Deno.chmodSync(join(temp.path, "deep"), 0o755);
    refuses(join(stateDir, "storage"), /name a --storage-root elsewhere/);
    refuses(temp.path, /The state directory .* lies in the storage root/);
    Deno.chmodSync(temp.path, 0o700);
    refuses(storageRoot, new RegExp(`pass through ${temp.path} to the`));
    Deno.chmodSync(temp.path, 0o701);
    openStorageRoot(NOBODY, { storageRoot, stateDir });

    // One that is not empty, and closed, is somebody's.
    Deno.chmodSync(storageRoot, 0o700);
    Deno.writeTextFileSync(join(storageRoot, "file"), "");
    refuses(storageRoot, new RegExp(`pass through ${storageRoot} to the`));
    assert.equal(Deno.statSync(storageRoot).mode! & 0o777, 0o700);
    Deno.chmodSync(storageRoot, 0o711);

    // Whoever owns a folder above it, or may write there, decides what root works on.
    const deep = join(temp.path, "deep");
    const lies = /storage, state directory and store have to lie where only root/;
    for (const uid of [NOBODY.uid, 1500]) {
      Deno.chownSync(deep, uid, uid);
      refuses(storageRoot, new RegExp(`lies in ${deep}, which belongs to uid ${uid}: .*${lies.source}`));
      refuses(join(temp.path, "other"), lies, { storeFile: join(deep, "sessions.sqlite") });
      refuses(join(temp.path, "other"), lies, { stateDir: join(deep, "storage") });
    }
    // Before anything is made there as well, and by whatever name.
    assert.throws(() => checkWay(join(deep, "not/there")), { message: new RegExp(`lies in ${deep}, which belongs`) });
    Deno.chownSync(deep, 0, 0);
    checkWay(join(deep, "not/there"));
    Deno.symlinkSync(temp.path, join(deep, "way"));
    assert.throws(() => checkWay(join(deep, "way/not/there")), { message: /leads through the symlink .*\/way: / });
    // A place itself, be it sticky.
    Deno.chmodSync(storageRoot, 0o1777);
    refuses(storageRoot, new RegExp(`${storageRoot} is a folder, which others can write`));
    Deno.chmodSync(storageRoot, 0o711);
    Deno.chmodSync(deep, 0o777);
    refuses(storageRoot, new RegExp(`lies in ${deep}, which others can write: .*`));
    Deno.chmodSync(deep, 0o755);
    Deno.symlinkSync(join(temp.path, "other"), join(deep, "link"));
    refuses(join(deep, "link"), /leads through a symlink: with --agent-user, name .*other itself/);
    refuses(storageRoot, /leads through a symlink/, { storeFile: join(deep, "link/sessions.sqlite") });
    Deno.chmodSync(deep, 0o1777);
    openStorageRoot(NOBODY, { storageRoot, stateDir });
  },
});

Deno.test({
  name: "only root starts agents as another user",
  ignore: isRoot,
  fn() {
    assert.throws(() => openStorageRoot(NOBODY, { storageRoot: "/", stateDir: "/x" }), { message: /Only root starts/ });
  },
});
