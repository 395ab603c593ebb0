import assert from "node:assert/strict";
import type { Entry } from "../../proto/tree/entry.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { AllowedPaths, shown } from "./allowed_paths.ts";

const OB = "/home/ann/.cache/bazel/_bazel_ann/0a1b", WS = "/home/ann/ws";

function entry(path: string, fields: Partial<Entry> = {}): Entry {
  return { path, kind: fields.target === undefined ? "file" : "symlink", mode: 0o644, size: 0, mtimeMs: 0, ...fields };
}

Deno.test("outputs go below the output base, into the lock file, to named files and to convenience symlinks", () => {
  const allowed = new AllowedPaths({ outputBase: OB, workspace: WS, namedFiles: ["/home/ann/bep.json"] });
  const place = (e: Entry) => allowed.place(e);
  assert.deepEqual(place(entry(`${OB}/execroot/_main/x`)), { where: "output base", path: "execroot/_main/x" });
  assert.deepEqual(place(entry(`${OB}/external/a/x`)), { where: "output base", path: "external/a/x" });
  assert.equal(place(entry(`${OB}/external/+ext+a`, { target: "/elsewhere" })).where, "output base");
  assert.equal(place(entry(`${OB}/execroot/_main/bazel-out/volatile-status.txt`)).where, "output base");
  assert.equal(place(entry(`${OB}/execroot/_main/bazel-out/k8/bin/x`, { target: "/elsewhere" })).where, "output base");
  assert.equal(place(entry(`${WS}/MODULE.bazel.lock`)).where, "named file");
  assert.equal(place(entry("/home/ann/bep.json")).where, "named file");
  const link = place(entry(`${WS}/bazel-bin`, { target: `${OB}/execroot/_main/bazel-out/k8/bin` }));
  assert.deepEqual(link, { where: "convenience symlink", path: `${WS}/bazel-bin` });
});

Deno.test("anything else is refused by name, with exit code 37", () => {
  const allowed = new AllowedPaths({ outputBase: OB, workspace: WS, namedFiles: ["/home/ann/bep.json"] });
  for (
    const [e, why] of [
      [entry("/etc/passwd"), /\/etc\/passwd, which is not a place/],
      [entry(`${WS}/main.cc`), /not a place for outputs/],
      [entry(`${WS}/bazel-bin`), /not a place/],
      [entry("/home/ann/bep.jsonx"), /not a place/],
      [entry(`${OB}x/execroot/a`), /not a place/],
      [entry(OB, { kind: "directory" }), /output base itself/],
      [entry(`${OB}/server/server.pid.txt`), /not for outputs/],
      [entry(`${OB}/SERVER/jvm.out`), /not for outputs/],
      [entry(`${OB}/\u017ferver/jvm.out`), /not for outputs/],
      [entry(`${OB}/install`, { target: "/tmp/evil" }), /not for outputs/],
      [entry(`${OB}/lock`), /not for outputs/],
      [entry(`${OB}/rbs/outputs.index`), /not for outputs/],
      [entry(`${OB}/action_cache/x`), /not for outputs/],
      // What a later local server believes, or the client writes to.
      [entry(`${OB}/external/@a.marker`), /not for outputs/],
      [entry(`${OB}/external/@a.marker`, { target: `${OB}/execroot/x` }), /not for outputs/],
      [entry(`${OB}/external/a.recorded_inputs`), /not for outputs/],
      [entry(`${OB}/external/a`), /not for outputs/],
      [entry(`${OB}/external`, { target: `${OB}/execroot` }), /not for outputs/],
      [entry(`${OB}/execroot`, { kind: "directory" }), /not for outputs/],
      [entry(`${OB}/javalog.properties`, { target: "/home/ann/.bashrc" }), /not for outputs/],
      [entry(`${OB}/bazel-out/x`), /not for outputs/],
      [entry(`${OB}/execroot.before-rbs/_main/x`), /not for outputs/],
      [entry(`${OB}/whatever/a/server/is/given/next`), /not for outputs/],
      // What a later local server empties, or writes to, wherever it leads.
      [entry(`${OB}/execroot/_main`, { target: "/home/ann" }), /a folder for outputs, and no symlink/],
      [entry(`${OB}/execroot/DO_NOT_BUILD_HERE`, { target: "/home/ann/.bashrc" }), /a folder for outputs/],
      [entry(`${OB}/execroot/_main`), /a folder for outputs, and no file/],
      [entry(`${OB}/execroot/_main/bazel-out`, { target: "/home/ann" }), /a folder for outputs/],
      [entry(`${OB}/execroot/_main/bazel-out/stable-status.txt`, { target: "/home/ann/x" }), /a folder for outputs/],
      [entry(`${OB}/execroot/_main/bazel-out/_tmp`, { target: "/home/ann" }), /a folder for outputs/],
      [entry(`${OB}/execroot/_main/bazel-out/k8-fastbuild`, { target: "/home/ann" }), /a folder for outputs/],
      [entry("/home/ann/bep.json", { target: "/etc/passwd" }), /file and not a symlink/],
      [entry("/home/ann/bep.json", { kind: "directory" }), /file and not a directory/],
      [entry(`${WS}/bazel-bin`, { target: "/etc" }), /does not lead to an output/],
      [entry(`${WS}/bazel-bin`, { target: OB }), /does not lead/],
      [entry(`${WS}/bazel-bin`, { target: `${OB}/../../../..` }), /does not lead/],
      [entry(`${WS}/bazel-bin`, { target: `${OB}/server` }), /does not lead/],
      [entry(`${WS}/bazel-bin`, { target: "execroot" }), /does not lead/],
      [entry("/tmp/bazel-bin", { target: `${OB}/execroot` }), /not a place/],
    ] as const
  ) {
    assert.throws(() => allowed.place(e), (error: Error & { exitCode: number }) => {
      assert.match(error.message, why);
      return error.exitCode === 37;
    }, e.path);
  }
});

Deno.test("the server's logs go into the output base, and no link from there leads to anything else", () => {
  const allowed = new AllowedPaths({ outputBase: OB, workspace: WS });
  const log = "java.log.host.ann.log.java.20261129-232300.42", profile = "command-0a1b-2c3d.profile.gz";
  for (const name of ["java.log", log, "command.profile.gz", profile]) {
    assert.deepEqual(allowed.place(entry(`${OB}/${name}`)), { where: "output base", path: name });
  }
  for (const [name, target] of [["java.log", log], ["command.profile.gz", profile]]) {
    assert.equal(allowed.place(entry(`${OB}/${name}`, { target })).where, "output base");
  }
  const others = ["/home/ann/.bashrc", `${OB}/${log}`, "server/jvm.out", `../${log}`, "java.log.x/../../y", ""];
  for (const target of others) {
    assert.throws(() => allowed.place(entry(`${OB}/java.log`, { target })), /not for outputs/);
  }
  for (const name of ["java.log/x", "java.logs", "java.log.a b", "command-x.profile.gz", "command.log"]) {
    assert.throws(() => allowed.place(entry(`${OB}/${name}`)), /not for outputs/, name);
  }
  assert.throws(() => allowed.place(entry(`${OB}/java.log`, { kind: "directory" })), /not for outputs/);
});

Deno.test("an output base within the workspace, and the reverse, keep their own files apart", () => {
  const inner = new AllowedPaths({ outputBase: `${WS}/.out`, workspace: WS });
  assert.equal(inner.place(entry(`${WS}/.out/execroot/_main/x`)).where, "output base");
  assert.throws(() => inner.place(entry(`${WS}/main.cc`)));
  const outer = new AllowedPaths({ outputBase: "/home/ann", workspace: WS });
  assert.throws(() => outer.place(entry(`${WS}/main.cc`)));
});

Deno.test("a convenience symlink stands only where there is nothing, or another one", async () => {
  await using temp = await tempDir();
  const ws = temp.join("ws"), ob = temp.join("ob");
  Deno.mkdirSync(`${ws}/dir`, { recursive: true });
  const allowed = new AllowedPaths({ outputBase: ob, workspace: ws });
  assert.equal(allowed.obstacle(`${ws}/bazel-bin`), undefined);
  Deno.symlinkSync(`${ob}/execroot/_main`, `${ws}/bazel-ws`);
  assert.equal(allowed.obstacle(`${ws}/bazel-ws`), undefined);
  Deno.symlinkSync("/other/output/base/execroot/_main/bazel-out", `${ws}/bazel-out`);
  assert.equal(allowed.obstacle(`${ws}/bazel-out`), undefined, "of another output base");
  Deno.symlinkSync(".", `${ws}/bazel-testlogs`);
  assert.equal(allowed.obstacle(`${ws}/bazel-testlogs`), undefined, "Bazel replaces any symlink of its names");
  Deno.symlinkSync("dir", `${ws}/bazel-mine`);
  assert.match(allowed.obstacle(`${ws}/bazel-mine`)!, /symlink of the workspace/);
  Deno.writeTextFileSync(`${ws}/bazel-genfiles`, "mine");
  assert.match(allowed.obstacle(`${ws}/bazel-genfiles`)!, /file or folder of the workspace/);
  for (const name of [".bazelrc", "tools/bazel", ".git", "dir/bazel-bin"]) {
    assert.match(allowed.obstacle(`${ws}/${name}`)!, /--symlink_prefix/, name);
  }
  Deno.symlinkSync(temp.path, `${ws}/out`);
  const prefixed = new AllowedPaths({ outputBase: ob, workspace: ws, symlinkPrefix: "out/" });
  assert.match(prefixed.obstacle(`${ws}/out/bin`)!, /is no folder/);
  Deno.removeSync(`${ws}/out`);
  assert.equal(prefixed.obstacle(`${ws}/out/bin`), undefined);
});

Deno.test("convenience symlinks stand outside of the workspace only by the developer's own prefix, and never by an agent's link", async () => {
  await using temp = await tempDir();
  const ws = temp.join("ws"), ob = temp.join("ob"), other = temp.join("other");
  for (const folder of [ws, `${ob}/execroot/_main`, other]) Deno.mkdirSync(folder, { recursive: true });
  const target = `${ob}/execroot/_main/bazel-out`;
  const link = (path: string): Entry => ({ path, kind: "symlink", mode: 0, size: 0, mtimeMs: 0, target });
  const paths = (symlinkPrefix?: string) => new AllowedPaths({ outputBase: ob, workspace: ws, symlinkPrefix });
  for (const prefix of [`${other}/p-`, "../other/p-"]) {
    assert.deepEqual(paths(prefix).place(link(`${other}/p-bin`)), {
      where: "convenience symlink",
      path: `${other}/p-bin`,
    });
    assert.equal(paths(prefix).obstacle(`${other}/p-bin`), undefined);
    for (const path of [`${other}/p-more`, `${other}/bin`, temp.join("p-bin")]) {
      assert.throws(() => paths(prefix).place(link(path)), /is not a place for outputs/, path);
    }
    assert.throws(() => paths(prefix).place({ ...link(`${other}/p-bin`), kind: "file" }), /is not a place/);
    assert.throws(() => paths(prefix).place({ ...link(`${other}/p-bin`), target: "/etc" }), /does not lead/);
  }
  assert.throws(() => paths().place(link(`${other}/p-bin`)), /is not a place for outputs/);
  assert.equal(paths("foo-").place(link(`${ws}/bazel-out`)).where, "convenience symlink", "beside any prefix");
  Deno.symlinkSync(target, `${other}/up-out`);
  assert.match(paths(`${other}/up-out/x-`).obstacle(`${other}/up-out/x-bin`)!, /is no folder/);
  Deno.symlinkSync(ob, `${other}/mine`);
  assert.match(
    paths(`${other}/mine/x-`).obstacle(`${other}/mine/x-bin`)!,
    /is no folder/,
    "it leads to the output base",
  );
  Deno.symlinkSync(ws, `${other}/ws`);
  assert.equal(paths(`${other}/ws/x-`).obstacle(`${other}/ws/x-bin`), undefined);
  assert.throws(() => paths(`${ob}/execroot/x-`).place(link(`${ob}/execroot/x-bin`)), /is a folder for outputs/);
});

Deno.test("a named file is found through the developer's symlinks, but never through one among the outputs", async () => {
  await using temp = await tempDir();
  const ws = temp.join("ws"), ob = temp.join("ob"), disk = temp.join("disk");
  for (const folder of [ws, `${ob}/execroot`, disk, `${ob}/server`]) Deno.mkdirSync(folder, { recursive: true });
  const allowed = new AllowedPaths({ outputBase: ob, workspace: ws });
  const at = (path: string) => allowed.resolveNamed(path);
  assert.deepEqual(at(`${ws}/new/bep.json`), { where: "named file", path: `${ws}/new/bep.json` });
  Deno.symlinkSync("../disk/./", `${ws}/logs`);
  Deno.symlinkSync(`${disk}/real.json`, `${disk}/bep.json`);
  assert.deepEqual(at(`${ws}/logs/bep.json`), { where: "named file", path: `${disk}/real.json` });
  Deno.symlinkSync(`${ob}/execroot`, `${ws}/bazel-ws`);
  assert.deepEqual(at(`${ws}/bazel-ws/p.gz`), { where: "output base", path: "execroot/p.gz" });
  Deno.symlinkSync(`${disk}/secret`, `${ob}/execroot/p.gz`);
  assert.deepEqual(at(`${ws}/bazel-ws/p.gz`), { where: "output base", path: "execroot/p.gz" }, "the link itself goes");
  Deno.symlinkSync(disk, `${ob}/execroot/d`);
  assert.throws(() => at(`${ws}/bazel-ws/d/x`), /symlink among the outputs/);
  assert.throws(() => at(`${ob}/server/x`), /no place for outputs/);
  Deno.symlinkSync("loop", `${ws}/loop`);
  assert.throws(() => at(`${ws}/loop`), /never ends/);
  assert.throws(() => at(ws), /no file/);
  // The same output base by another name.
  Deno.symlinkSync(ob, temp.join("alias"));
  const aliased = new AllowedPaths({ outputBase: temp.join("alias"), workspace: ws });
  assert.throws(() => aliased.resolveNamed(`${temp.join("alias")}/execroot/d/x`), /symlink among the outputs/);
});

Deno.test("a path is shown without what could steer a terminal", () => {
  assert.equal(shown("/a/ü b"), "/a/ü b");
  assert.equal(shown("/a\u001b[2J\n"), String.raw`"/a\u001b[2J\n"`);
  assert.ok(shown("x".repeat(5000)).length < 400);
});
