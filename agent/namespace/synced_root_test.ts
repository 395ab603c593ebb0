import assert from "node:assert/strict";
import { join } from "node:path";
import { systemFolderOf } from "../../proto/base/system_folders.ts";
import { Beneath } from "../files/beneath.ts";
import { prepareSyncedRoot } from "./synced_root.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

/** A storage with the folders that a namespace would have made, and what is put beside it. */
class Storage implements Disposable {
  readonly #temp = tempDirSync(undefined, "/var/tmp");
  readonly path = this.#temp.path;
  readonly root = join(this.path, "root");
  readonly #files = Beneath.open(this.path);

  prepare(
    change: { visible?: string[]; hidden?: string[]; workspace?: string; outputBase?: string; javabase?: string } = {},
  ) {
    return prepareSyncedRoot({
      storageDirectory: this.path,
      storage: this.#files,
      controlDirectory: join(this.path, "ctl"),
      storageOutputBase: join(this.path, "out"),
      workspace: "/home/ann/my ws\n'",
      outputBase: "/home/ann/.cache/ob",
      visible: [],
      hidden: [],
      ...change,
    });
  }

  [Symbol.dispose](): void {
    this.#files[Symbol.dispose]();
    this.#temp[Symbol.dispose]();
  }
}

Deno.test("the mount points of a synced root are there, whatever their names hold", async () => {
  using storage = new Storage();
  const mounts = await storage.prepare();
  for (const path of ["home/ann/my ws\n'", "home/ann/.cache/ob", "usr", "proc", "tmp", "var/tmp", "root"]) {
    assert(Deno.lstatSync(join(storage.root, path)).isDirectory, path);
  }
  const bin = Deno.lstatSync("/bin");
  assert.equal(Deno.lstatSync(join(storage.root, "bin")).isSymlink, bin.isSymlink, "links stay links");
  assert.deepEqual(mounts.find(({ to }) => to === "/home/ann/.cache/ob"), {
    how: "writable",
    from: join(storage.path, "out"),
    to: "/home/ann/.cache/ob",
  });
  assert.equal(mounts.find(({ to }) => to === "/usr")?.how, "read-only");
  const depths = mounts.map(({ to }) => to.split("/").length);
  assert.deepEqual(depths, depths.toSorted((a, b) => a - b), "what lies deeper is mounted later");
});

Deno.test("a link that an action left where a mount point must be is not followed", async () => {
  using storage = new Storage();
  const outside = join(storage.path, "outside");
  Deno.mkdirSync(outside);
  Deno.mkdirSync(storage.root);
  Deno.symlinkSync(outside, join(storage.root, "home"));
  Deno.symlinkSync(outside, join(storage.root, "usr"));
  Deno.writeTextFileSync(join(storage.root, "tmp"), "a file");
  await storage.prepare();
  await storage.prepare();
  assert.deepEqual([...Deno.readDirSync(outside)], []);
  for (const path of ["home/ann", "usr", "tmp"]) assert(Deno.lstatSync(join(storage.root, path)).isDirectory, path);
});

Deno.test("what is visible is shown in what is hidden, and hidden in what is visible", async () => {
  using storage = new Storage();
  using state = new Storage();
  const [bases, secret, program] = ["bases", "bases/secret", "bazel"].map((name) => join(state.path, name));
  Deno.mkdirSync(secret, { recursive: true });
  Deno.writeTextFileSync(program, "");
  const mounts = await storage.prepare({ visible: [bases, program, "bash", "/nowhere"], hidden: [secret, "/nowhere"] });
  const how = (path: string) => mounts.find(({ to }) => to === path)?.how;
  assert.deepEqual([how(bases), how(secret), how(program)], ["read-only", "empty", "read-only"]);
  assert(Deno.lstatSync(join(storage.root, program)).isFile);
  assert.equal(mounts.filter(({ to }) => /nowhere|\/bash$/.test(to)).length, 0, "bash is in a system folder");

  const systemFolder = Deno.realPathSync("/usr/lib");
  const nested = await storage.prepare({ hidden: [systemFolder, "/usr"], visible: ["/usr/lib/os-release"] });
  assert.deepEqual(nested.filter(({ to }) => to.startsWith("/usr")).map(({ how, to }) => [how, to]), [
    ["read-only", "/usr"],
    ["empty", "/usr/lib"],
    ["read-only", "/usr/lib/os-release"],
  ]);
});

Deno.test("system folders are known by the first part of a path", () => {
  assert.equal(systemFolderOf("/usr"), "/usr");
  assert.equal(systemFolderOf("//etc/../var//tmp"), "/var");
  assert.equal(systemFolderOf("/usrs/x"), undefined);
  assert.equal(systemFolderOf("/home/usr"), undefined);
  assert.equal(systemFolderOf("/"), undefined);
});

Deno.test("a synced root has a java where the developer's server_javabase is, but not among what is sent", async () => {
  using storage = new Storage();
  const java = (folder: string) => join(storage.root, folder, "bin/java");
  await storage.prepare({ javabase: "/home/ann/rbs" });
  await storage.prepare({ javabase: "/home/ann/rbs" });
  assert.match(Deno.readTextFileSync(java("home/ann/rbs")), /^#!\/bin\/sh\nRBS_IN_SESSION=1\n/);
  for (
    const folder of [
      "/home/ann/my ws\n'",
      "/home/ann/my ws\n'/jdk",
      "/home/ann/.cache/ob/jdk",
      "/usr/rbs",
      "rbs",
      "/a/../b",
    ]
  ) {
    await storage.prepare({ javabase: folder });
    assert.throws(() => Deno.lstatSync(java(folder)), Deno.errors.NotFound);
  }
});
