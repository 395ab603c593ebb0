import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { RbsError } from "../../proto/base/errors.ts";
import { Beneath } from "../files/beneath.ts";
import { LINKED_NAMES, LocalOutputBase } from "./local_output_base.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

async function withFolders(test: (outputBase: string, storageOutputBase: string) => Promise<void>): Promise<void> {
  await using root = await tempDir("a 'b");
  await test(root.join("dev\n", "ob"), root.join("storage", "out\n"));
}

Deno.test("the links lead to the storage, and are mended", () =>
  withFolders(async (outputBase, storageOutputBase) => {
    const local = new LocalOutputBase({ outputBase, namespace: { storageOutputBase } });
    await local.ensure();
    await local.ensure();
    await Deno.remove(join(outputBase, "execroot"));
    await Deno.symlink("/elsewhere", join(outputBase, "execroot"));
    await Deno.remove(join(outputBase, "command.log"));
    await local.ensure();
    for (const name of LINKED_NAMES) {
      assert.equal(await Deno.readLink(join(outputBase, name)), join(storageOutputBase, name));
    }
  }));

Deno.test("the file that java.log leads to has its own name, as long as RBS is used", () =>
  withFolders(async (outputBase, storageOutputBase) => {
    const log = "java.log.host.ann.log.java.20261129-232300.42";
    await Deno.mkdir(storageOutputBase, { recursive: true });
    await Deno.writeTextFile(join(storageOutputBase, log), "said");
    await Deno.symlink(log, join(storageOutputBase, "java.log"));
    await Deno.symlink("/etc/passwd", join(storageOutputBase, "command.profile.gz"));
    const local = new LocalOutputBase({ outputBase, namespace: { storageOutputBase } });
    await local.ensure();
    assert.equal(await Deno.readTextFile(join(outputBase, log)), "said");
    assert(![...Deno.readDirSync(outputBase)].some(({ name }) => name === "passwd"));
    await local.restore();
    assert.deepEqual([...Deno.readDirSync(outputBase)], []);
  }));

Deno.test("what was there without RBS is put aside, and put back", () =>
  withFolders(async (outputBase, storageOutputBase) => {
    await Deno.mkdir(join(outputBase, "execroot", "deep"), { recursive: true });
    await Deno.writeTextFile(join(outputBase, "command.log"), "old");
    await Deno.symlink("elsewhere", join(outputBase, "external"));
    await Deno.mkdir(join(outputBase, "server"));
    const local = new LocalOutputBase({ outputBase, namespace: { storageOutputBase } });
    await local.ensure();
    assert((await Deno.stat(join(outputBase, "execroot.before-rbs", "deep"))).isDirectory);
    await local.restore();
    await local.restore();
    assert((await Deno.stat(join(outputBase, "execroot", "deep"))).isDirectory);
    assert.equal(await Deno.readTextFile(join(outputBase, "command.log")), "old");
    assert.deepEqual([...Deno.readDirSync(outputBase)].map((e) => e.name).sort(), [
      "command.log",
      "execroot",
      "server",
    ]);
  }));

Deno.test("repositories are shown, and nothing by which a server would believe them", () =>
  withFolders(async (outputBase, storageOutputBase) => {
    const [there, here] = [join(storageOutputBase, "external"), join(outputBase, "external")];
    const write = (path: string) =>
      Deno.mkdir(join(path, ".."), { recursive: true }).then(() => Deno.writeTextFile(path, path));
    const names = (folder: string) => [...Deno.readDirSync(folder)].map((e) => e.name).sort();
    for (const name of ["a b/x", "@a b.marker", "b.recorded_inputs", "file"]) await write(join(there, name));
    for (const name of ["external/@mine.marker", "external/mine/x", "action_cache/x"]) {
      await write(join(outputBase, name));
    }
    const local = new LocalOutputBase({ outputBase, namespace: { storageOutputBase } });
    await local.ensure();
    assert.deepEqual(names(here), ["a b"]);
    assert.equal(await Deno.readLink(join(here, "a b")), join(there, "a b"));
    assert(!names(outputBase).includes("action_cache"));

    await Deno.symlink("/usr", join(there, "+ext+c"));
    await Deno.remove(join(there, "a b"), { recursive: true });
    await local.ensure();
    assert.deepEqual(names(here), ["+ext+c"]);
    await write(join(here, "@made_since.marker"));
    await local.ensure();
    assert.deepEqual(names(here), ["+ext+c"], "what a local server has left is put aside");
    assert.deepEqual(names(`${here}.before-rbs`), ["+ext+c", "@made_since.marker"]);

    await write(join(outputBase, "action_cache/y"));
    await local.ensure();
    await local.restore();
    assert.deepEqual(names(outputBase), ["action_cache", "external"]);
    assert.deepEqual(names(join(outputBase, "action_cache")), ["y"]);
    await local.ensure();
    await local.expunge();
    assert.deepEqual(names(outputBase), []);
  }));

Deno.test("links into what the session's storage was called before are made anew, and no work of the developer's", () =>
  withFolders(async (outputBase, storageOutputBase) => {
    const former = join(dirname(storageOutputBase) + "-before", "out\n");
    for (const [base, name] of [[former, "gone"], [former, "both"], [storageOutputBase, "both"]]) {
      await Deno.mkdir(join(base, "external", name), { recursive: true });
    }
    await new LocalOutputBase({ outputBase, namespace: { storageOutputBase: former } }).ensure();
    const local = new LocalOutputBase({ outputBase, namespace: { storageOutputBase } });
    await local.ensure();
    const names = [...Deno.readDirSync(outputBase)].map((e) => e.name).sort();
    assert.deepEqual(names, [...LINKED_NAMES, "external"].sort());
    assert.deepEqual([...Deno.readDirSync(join(outputBase, "external"))].map((e) => e.name), ["both"]);
    assert.equal(await Deno.readLink(join(outputBase, "external/both")), join(storageOutputBase, "external/both"));
    // What leads elsewhere is the developer's.
    await local.restore();
    await Deno.mkdir(join(outputBase, "external"));
    await Deno.symlink(join(former, "other/both"), join(outputBase, "external/both"));
    await local.ensure();
    assert.equal(await Deno.readLink(join(outputBase, "external.before-rbs/both")), join(former, "other/both"));
  }));

Deno.test("an output base that cannot be made is named in one sentence", () =>
  withFolders(async (outputBase, storageOutputBase) => {
    await Deno.mkdir(join(outputBase, ".."), { recursive: true });
    await Deno.writeTextFile(outputBase, "a file");
    const local = new LocalOutputBase({ outputBase, namespace: { storageOutputBase } });
    await assert.rejects(local.ensure(), (e) => e instanceof RbsError && e.culprit === "caller");
  }));

Deno.test("an output base whose way leads into a hidden folder is left alone, whatever the way was before", () =>
  withFolders(async (outputBase, storageOutputBase) => {
    const hidden = join(outputBase, "../../state");
    const others = join(hidden, "bob/ob");
    await Deno.mkdir(join(others, "execroot"), { recursive: true });
    await Deno.mkdir(outputBase, { recursive: true });
    await Deno.mkdir(storageOutputBase, { recursive: true });
    const local = new LocalOutputBase({ outputBase, namespace: { storageOutputBase }, hidden: [hidden] });
    await local.ensure();
    await Deno.rename(join(outputBase, ".."), join(outputBase, "../../former"));
    await Deno.symlink(join(hidden, "bob"), join(outputBase, ".."));
    for (const act of [() => local.ensure(), () => local.restore(), () => local.expunge()]) {
      await assert.rejects(act(), (e) => e instanceof RbsError && /no business/.test(e.message));
    }
    // The hidden folder is known when it is somewhere else, too.
    await Deno.rename(hidden, hidden + "2");
    await Deno.remove(join(outputBase, ".."));
    await Deno.symlink(join(hidden + "2", "bob"), join(outputBase, ".."));
    await assert.rejects(local.expunge(), RbsError);
    assert.deepEqual([...Deno.readDirSync(join(hidden + "2", "bob/ob"))].map((e) => e.name), ["execroot"]);
  }));

Deno.test("emptying an output base changes nothing where its symlinks lead, neither content nor modes", () =>
  withFolders(async (outputBase, storageOutputBase) => {
    const secret = join(outputBase, "../../secret");
    await Deno.mkdir(join(storageOutputBase, "deep/er"), { recursive: true });
    await Deno.writeTextFile(secret, "the key");
    await Deno.chmod(secret, 0o400);
    await Deno.symlink(secret, join(storageOutputBase, "a"));
    await Deno.symlink(join(secret, ".."), join(storageOutputBase, "deep/er/b"));
    await Deno.chmod(join(storageOutputBase, "deep"), 0o500);
    await new LocalOutputBase({ outputBase, namespace: { storageOutputBase } }).expunge();
    assert.deepEqual([...Deno.readDirSync(storageOutputBase)], []);
    assert.equal(await Deno.readTextFile(secret), "the key");
    assert.equal(Deno.statSync(secret).mode! & 0o777, 0o400);
  }));

Deno.test("where the session is not root and the agent is, nothing is changed out of the session's own folders", () =>
  withFolders(async (outputBase, storageOutputBase) => {
    const own = dirname(outputBase), others = join(dirname(own), "bob");
    await Deno.mkdir(own);
    await Deno.mkdir(join(others, "ob/action_cache"), { recursive: true });
    using folder = Beneath.open(own);
    const local = new LocalOutputBase({ outputBase, namespace: { storageOutputBase, own: [folder] } });
    await local.ensure();
    assert.equal(await Deno.readLink(join(outputBase, "execroot")), join(storageOutputBase, "execroot"));
    // What a program of the session can do.
    await Deno.rename(own, `${own}.moved`);
    await Deno.symlink(others, own);
    for (const change of [() => local.ensure(), () => local.restore(), () => local.expunge()]) {
      await assert.rejects(change, /out of the folders in which the session may write/);
    }
    assert.deepEqual([...Deno.readDirSync(join(others, "ob"))].map((e) => e.name), ["action_cache"]);
  }));
