import assert from "node:assert/strict";
import { join } from "node:path";
import { RbsError } from "../../proto/errors.ts";
import { tempDirectory } from "../testing/temp.ts";
import { type AgentUser, findAgentUser, makeStorage, openStorageRoot } from "./agent_user.ts";

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
    using temp = tempDirectory();
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
    makeStorage(roots);
    Deno.writeTextFileSync(join(roots, "file"), "");
    assert.throws(() => makeStorage(roots, NOBODY), { message: "it belongs to uid 0, and agents run as nobody" });
    Deno.symlinkSync(stateDir, join(storageRoot, "ann/89ab"));
    assert.throws(() => makeStorage(join(storageRoot, "ann/89ab"), NOBODY), { message: /it belongs to uid 0/ });
    assert.deepEqual(of(stateDir), [0, 0, "700"]);
  },
});

Deno.test({
  name: "a storage root that the agents' user cannot get at is refused",
  ignore: !isRoot,
  fn() {
    using temp = tempDirectory();
    const stateDir = join(temp.path, "state");
    const storageRoot = join(temp.path, "deep/storage");
    for (const folder of [join(stateDir, "storage"), storageRoot]) Deno.mkdirSync(folder, { recursive: true });
    const inside = { storageRoot: join(stateDir, "storage"), stateDir };
    assert.throws(() => openStorageRoot(NOBODY, inside), { message: /name a --storage-root elsewhere/ });
    Deno.chmodSync(join(temp.path, "deep"), 0o755);
    Deno.chmodSync(temp.path, 0o700);
    const below = { storageRoot, stateDir };
    assert.throws(() => openStorageRoot(NOBODY, below), { message: new RegExp(`pass through ${temp.path} to the`) });
    Deno.chmodSync(temp.path, 0o701);
    openStorageRoot(NOBODY, below);
  },
});

Deno.test({
  name: "only root starts agents as another user",
  ignore: isRoot,
  fn() {
    assert.throws(() => openStorageRoot(NOBODY, { storageRoot: "/", stateDir: "/x" }), { message: /Only root starts/ });
  },
});
