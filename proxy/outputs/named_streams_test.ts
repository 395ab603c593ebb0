import assert from "node:assert/strict";
import type { RbsError } from "../../proto/base/errors.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { encodeName } from "../../proto/tree/names.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { output } from "../../tests/support/run.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { NamedStreams } from "./named_streams.ts";
import { namedTargets } from "./named_targets.ts";

const part = (path: string, offset: number, content: string) =>
  encodeFields([[1, encodeName(path)], [2, offset], [3, content]]);

async function laptop() {
  const temp = await tempDir();
  const place = { workspace: temp.join("ws"), outputBase: temp.join("ob") };
  for (const folder of [place.workspace, `${place.outputBase}/execroot`]) Deno.mkdirSync(folder, { recursive: true });
  const targets = (paths: string[], secondary = false) =>
    namedTargets(paths.map((path) => ({ path, secondary })), place);
  return {
    ...place,
    temp,
    targets,
    streams: (paths: string[], signal = new AbortController().signal) =>
      new NamedStreams(targets(paths).targets, signal),
    [Symbol.asyncDispose]: () => temp[Symbol.asyncDispose](),
  };
}

Deno.test("a file grows under the eyes of who follows it, through the developer's own links", async () => {
  await using t = await laptop();
  const real = t.temp.join("real.json"), named = `${t.workspace}/bep.json`;
  Deno.writeTextFileSync(real, "of an earlier command, and long");
  Deno.symlinkSync(real, named);
  using follower = Deno.openSync(real);
  const streams = t.streams([named, `${t.workspace}/new/run.log`]);
  streams.take(part(named, 0, "one "));
  assert.equal(Deno.readTextFileSync(real), "one ");
  streams.take(part(named, 4, "two"));
  streams.take(part(`${t.workspace}/new/run.log`, 0, "log"));
  assert.equal(follower.statSync().size, 7, "it is the same file still");
  assert.equal(Deno.readTextFileSync(`${t.workspace}/new/run.log`), "log");
  streams.take(part(named, 0, "again"));
  assert.deepEqual(await streams.finish(), []);
  assert.equal(Deno.readTextFileSync(real), "again");
});

Deno.test("a pipe gets all of it, and its reader may come late or go early", async () => {
  await using t = await laptop();
  const pipe = `${t.workspace}/pipe`;
  await output(["mkfifo", pipe]);
  const text = "0123456789".repeat(30_000);
  const streams = t.streams([pipe]);
  for (let at = 0; at < text.length; at += 100_000) streams.take(part(pipe, at, text.slice(at, at + 100_000)));
  const reading = output(["cat", pipe]);
  assert.deepEqual(await streams.finish(), []);
  assert.equal(await reading, text);

  const early = t.streams([pipe]);
  const head = output(["head", "-c", "5", pipe]);
  for (let at = 0; at < text.length; at += 100_000) early.take(part(pipe, at, text.slice(at, at + 100_000)));
  assert.equal(await head, "01234");
  assert.match((await early.finish()).join(), /pipe cannot be written \(who reads it does not want more\)/);
});

Deno.test("a pipe that nobody reads is waited for until Ctrl-C", async () => {
  await using t = await laptop();
  const pipe = `${t.workspace}/pipe`;
  await output(["mkfifo", pipe]);
  const stop = new AbortController();
  const streams = t.streams([pipe], stop.signal);
  streams.take(part(pipe, 0, "x"));
  const finished = streams.finish();
  assert.equal(await Promise.race([finished, new Promise((resolve) => setTimeout(resolve, 50, "waits"))]), "waits");
  stop.abort();
  assert.deepEqual(await finished, []);
});

Deno.test("a command that broke writes nothing more: its readers see the end, and the next command's get no word of it", async () => {
  await using t = await laptop();
  const pipe = `${t.workspace}/pipe`, read = `${t.workspace}/read`, named = `${t.workspace}/bep.json`;
  await output(["mkfifo", pipe, read]);
  const isOpen = (path: string) =>
    [...Deno.readDirSync("/proc/self/fd")].some(({ name }) => {
      try {
        return Deno.readLinkSync(`/proc/self/fd/${name}`) === path;
      } catch {
        return false; // of the look itself
      }
    });
  const closed = () => eventually(() => !isOpen(pipe) && !isOpen(read) && !isOpen(named));
  const broken = t.streams([pipe, read, named]);
  broken.take(part(pipe, 0, "of the command that broke"));
  broken.take(part(read, 0, "half"));
  broken.take(part(named, 0, "half"));
  await using reader = new Deno.Command("cat", { args: [read], stdout: "piped" }).spawn();
  const came = reader.stdout.getReader();
  assert.equal(new TextDecoder().decode((await came.read()).value), "half");
  broken[Symbol.dispose]();
  assert.equal((await came.read()).done, true);
  await closed();

  const next = t.streams([pipe]);
  next.take(part(pipe, 0, "next"));
  const whole = output(["cat", pipe]);
  assert.deepEqual(await next.finish(), []);
  next[Symbol.dispose]();
  assert.equal(await whole, "next");
  await closed();
});

Deno.test("an agent writes to no file that was not named, and tells no lies about offsets", async () => {
  await using t = await laptop();
  const named = `${t.workspace}/bep.json`, output = `${t.outputBase}/execroot/profile`;
  const streams = t.streams([named, output]);
  streams.take(part(`${t.workspace}/.bazelrc`, 0, "planted"));
  streams.take(part(output, 0, "comes with the outputs"));
  assert.deepEqual([...Deno.readDirSync(t.workspace)], []);
  assert.deepEqual([...Deno.readDirSync(`${t.outputBase}/execroot`)], []);
  streams.take(part(named, 0, "one"));
  assert.throws(() => streams.take(part(named, 7, "two")), (e: RbsError) => e.exitCode === 37);
  await streams.finish();
});

Deno.test("what cannot be written is known before the command, and if nothing depends on it is left out", async () => {
  await using t = await laptop();
  const { workspace, outputBase } = t;
  Deno.writeTextFileSync(`${workspace}/plain`, "");
  Deno.symlinkSync("loop", `${workspace}/loop`);
  Deno.symlinkSync("/etc", `${outputBase}/execroot/link`);
  const bad = {
    "/etc/profile.gz": /\/etc is the build server machine's own/,
    "/dev/pts/0": /\/dev is the build server machine's own/,
    [`${workspace}/plain/x`]: /is no folder/,
    [workspace]: /no file/,
    [`${workspace}/loop`]: /cannot be written/,
    [`${outputBase}/execroot/link/x`]: /symlink among the outputs/,
  };
  for (const [path, pattern] of Object.entries(bad)) {
    assert.throws(() => t.targets([path]), (e: RbsError) => e.exitCode === 36 && pattern.test(e.message), path);
    const { targets, warnings } = t.targets([path], true);
    assert.deepEqual(targets, []);
    assert.match(warnings.join(), pattern);
  }
  const good = [`${workspace}/plain`, `${workspace}/new/deep/file`, `${outputBase}/execroot/file`];
  assert.deepEqual(t.targets(good).targets.map(({ kind, real }) => [kind, real]), [
    ["file", good[0]],
    ["file", good[1]],
    ["file", undefined],
  ]);
});
