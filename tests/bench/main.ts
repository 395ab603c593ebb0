/**
 * `deno task bench [PART…]`, a part being one of {@link PARTS}: RBS against the same without it, both sides in turns in one
 * run. Prints medians and ratios, and what must be reached.
 */
import { compile } from "../../tools/compile.ts";
import { PROGRAMS } from "../../tools/permissions.ts";
import { IP, RSYNC, setup } from "../../tools/setup.ts";
import { findBazels, longLived } from "../support/bazels.ts";
import { startCluster } from "../support/cluster.ts";
import { testWorkspace } from "../support/workspace.ts";
import { benchCancel, benchLargeOutput, benchMemory, benchWarm } from "./commands_bench.ts";
import { benchControl } from "./control_bench.ts";
import { benchHandshake } from "./handshake_bench.ts";
import { type Result, table } from "./report.ts";
import { benchStart } from "./start_bench.ts";
import { benchFiles, benchLink, benchSynced } from "./sync_bench.ts";
import { benchTls } from "./tls_bench.ts";

const PARTS = ["handshake", "warm", "output", "cancel", "memory", "sync", "synced", "link", "control", "tls", "start"];
const wanted = Deno.args.length > 0 ? Deno.args : PARTS;
const unknown = wanted.filter((part) => !PARTS.includes(part));
if (unknown.length > 0) {
  console.error(`bench: there is no part ${unknown.join(", ")}; there are ${PARTS.join(", ")}.`);
  Deno.exit(2);
}

if (!await setup(console.log, wanted.some((part) => ["sync", "link"].includes(part)) ? [IP, RSYNC] : [])) Deno.exit(1);
await compile(PROGRAMS);

const say = (text: string) => {
  if (Deno.stderr.isTerminal()) Deno.stderr.writeSync(new TextEncoder().encode(`\r\x1b[K${text}`));
};

const { found, missing } = await findBazels({ npm: false });
if (found.length === 0) {
  console.error(missing.join("\n"));
  Deno.exit(1);
}
const bazel = longLived(found[0]);
console.log(`Bazel ${bazel.version}, ${navigator.hardwareConcurrency} cores, Deno ${Deno.version.deno}`);

const results: Result[] = [];
if (wanted.some((part) => !["sync", "synced", "link", "control", "tls", "start"].includes(part))) {
  await using cluster = await startCluster();
  await using direct = await testWorkspace(bazel);
  await using rbs = await testWorkspace(bazel, { startupOptions: [cluster.serverJavabase], env: cluster.env });
  for (const workspace of [direct, rbs]) {
    const { code, stderr } = await workspace.run(["build", "//..."]);
    if (code !== 0) throw new Error(`the workspace does not build:\n${stderr}`);
  }
  if (wanted.includes("handshake")) results.push(...await benchHandshake(direct, cluster.env, say));
  if (wanted.includes("warm")) results.push(...await benchWarm({ direct, rbs }, say));
  if (wanted.includes("output")) results.push(...await benchLargeOutput({ direct, rbs }, say));
  if (wanted.includes("cancel")) results.push(...await benchCancel({ direct, rbs }, say));
  if (wanted.includes("memory")) results.push(...await benchMemory(rbs));
}
if (wanted.includes("sync")) results.push(...await benchFiles(say));
if (wanted.includes("synced")) results.push(...await benchSynced(bazel, say));
if (wanted.includes("link")) results.push(...await benchLink(bazel, say));
if (wanted.includes("control")) results.push(...await benchControl(say));
if (wanted.includes("start")) results.push(...await benchStart(bazel, say));
if (wanted.includes("tls")) results.push(...await benchTls(bazel, say));
say("");
console.log(table(results));
Deno.exit(results.every((r) => r.reached) ? 0 : 1);
