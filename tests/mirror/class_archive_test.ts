/** A second server of a user starts with an archive of the first one's classes, and no client sees a difference. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { longLived } from "../support/bazels.ts";
import { eventually } from "../support/eventually.ts";
import { BAZELS, Exit, type Rig, rig, testEach } from "./support/rig.ts";

/** For an archive that is made in the background, on a busy machine. */
const PATIENCE_MS = 300_000;
/** Bazel 2.1.0 brings JDK 11, which makes none. */
const able = BAZELS.filter(({ version }) => !version.startsWith("2."));

/** The archives that the cluster's agents have made. */
function archives({ cluster }: Rig): string[] {
  const storage = join(cluster!.state, "storage");
  return Array.from(Deno.readDirSync(storage), ({ name }) => join(storage, name, ".classes/kept")).flatMap((kept) => {
    try {
      return Array.from(Deno.readDirSync(kept), ({ name }) => join(kept, name));
    } catch {
      return [];
    }
  });
}

async function usesArchive(one: Rig): Promise<boolean> {
  const { pid } = await one.server();
  return /\/(\.classes\/kept|\.rbs-readable-0)\/[0-9a-f]{32}\.jsa$/m.test(await Deno.readTextFile(`/proc/${pid}/maps`));
}

/** What a client compares, and what a user may read of the server. */
async function seen(one: Rig): Promise<string[]> {
  const commandLine = await Deno.readTextFile(join(one.outputBase, "server/cmdline"));
  const { code, stdout, stderr } = await one.run(["info", "java-home", "release"]);
  assert.equal(code, Exit.OK, stderr);
  return [commandLine, stdout, stderr];
}

for (const workspace of able.length > 0 ? ["shared", "synced"] : []) {
  testEach(`in a ${workspace} session the second server has an archive of classes`, async (bazel) => {
    await using one = await rig({ bazel: longLived(bazel), args: [`--workspace=${workspace}`, "--class-archives=4"] });
    await one.buildsQuickly();
    assert.equal(await usesArchive(one), false);
    const before = await seen(one);
    const made = await eventually(
      () => archives(one).filter((path) => path.endsWith(".json"))[0],
      "an archive was made",
      PATIENCE_MS,
    );
    assert.match(await Deno.readTextFile(made), /^{"sha256":/);

    assert.equal((await one.run(["shutdown"])).code, Exit.OK);
    await one.buildsQuickly();
    assert.equal(await usesArchive(one), true);
    const { pid } = await one.server();
    assert.deepEqual(await seen(one), before);
    assert.equal((await one.server()).pid, pid, "the client keeps the server");
  }, able);

  testEach(`in a ${workspace} session who says something about archives has none made`, async (bazel) => {
    const startupOptions = ["--host_jvm_args=-Xshare:auto"];
    await using one = await rig({
      bazel: longLived(bazel),
      args: [`--workspace=${workspace}`, "--class-archives=4"],
      startupOptions,
    });
    await one.buildsQuickly();
    await new Promise((resolve) => setTimeout(resolve, 12_000));
    assert.deepEqual(archives(one), []);
    const all = await one.processes();
    assert.equal(all.filter(({ args }) => args.some((arg) => arg.startsWith("-XX:ArchiveClassesAtExit"))).length, 0);
  }, able);
}
