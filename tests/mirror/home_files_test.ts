/**
 * What the home folder holds and an agent elsewhere does not: a download that needs a login from .netrc, by Bazel's own
 * rule, from a server that asks for it. Here .netrc is found by itself; elsewhere it goes along for who asks.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { output } from "../support/run.ts";
import { BAZEL, Exit, type Rig, rig, test, testEach } from "./support/rig.ts";

const CONTENT = "for ann\n", SHA256 = createHash("sha256").update(CONTENT).digest("hex");
const LOGIN = `Basic ${btoa("ann:open-sesame")}`;

/** A server that gives its file to ann only. */
function guarded() {
  const asked: (string | null)[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    const login = request.headers.get("authorization");
    asked.push(login);
    if (login === LOGIN) return new Response(CONTENT);
    return new Response("who are you?\n", { status: 401, headers: { "www-authenticate": 'Basic realm="test"' } });
  });
  return { asked, port: server.addr.port, [Symbol.asyncDispose]: () => server.shutdown() };
}

/** A workspace that downloads it, and a home folder with ann's login. */
async function prepare(one: Rig, port: number) {
  const at = (name: string) => join(one.workspace.path, name);
  await Deno.writeTextFile(
    at("WORKSPACE"),
    `load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_file")
http_file(name = "guarded", urls = ["http://127.0.0.1:${port}/file"], sha256 = "${SHA256}")
`,
  );
  await Deno.writeTextFile(
    at("BUILD"),
    `genrule(name = "copy", srcs = ["@guarded//file"], outs = ["copy.txt"], cmd = "cp $< $@")\n`,
  );
  const netrc = join(dirname(one.workspace.path), "home/.netrc");
  await Deno.writeTextFile(netrc, "machine 127.0.0.1 login ann password open-sesame\n", { mode: 0o600 });
  return { copy: () => Deno.readTextFile(at("bazel-bin/copy.txt")) };
}

testEach("stock: a download finds its login in .netrc", async () => {
  await using server = guarded();
  await using one = await rig({ stock: true });
  const { copy } = await prepare(one, server.port);
  const { code, stderr } = await one.run(["build", "//:copy"]);
  assert.equal(code, Exit.OK, stderr);
  assert.equal(await copy(), CONTENT);
  await one.run(["shutdown"]);
}, [BAZEL]);

testEach("synced: the first 401 says how a login gets there, and RBS_HOME_FILES brings it", async () => {
  await using server = guarded();
  await using one = await rig({ args: ["--workspace=synced"] });
  const { copy } = await prepare(one, server.port);
  const sentences = (stderr: string) => stderr.split("\n").filter((line) => line.startsWith("rbs: if that asks for"));

  const refused = await one.run(["build", "//:copy"]);
  assert.equal(refused.code, Exit.BUILD_FAILED, refused.stderr);
  assert.equal(sentences(refused.stderr).length, 1, refused.stderr);
  assert.match(sentences(refused.stderr)[0], /RBS_HOME_FILES=\.netrc/);
  const again = await one.run(["build", "//:copy"]);
  assert.equal(again.code, Exit.BUILD_FAILED, again.stderr);
  assert.deepEqual(sentences(again.stderr), [], "it is said once");
  assert(!server.asked.includes(LOGIN), "the login was nowhere else");

  const env = { RBS_HOME_FILES: ".netrc" };
  const asking = await one.run(["build", "//:copy"], { env });
  assert.equal(asking.code, Exit.OK, asking.stderr);
  assert.match(asking.stderr, /rbs: warning: \S+\/\.netrc \(RBS_HOME_FILES\) is copied .* can read it there\./);
  assert.equal(await copy(), CONTENT);
  assert(server.asked.includes(LOGIN));
}, [BAZEL]);

test("synced: a script that asks git learns where .git is, and `!.git` in .rbsignore brings it", async () => {
  await using one = await rig({ args: ["--workspace=synced"] });
  const at = (name: string) => join(one.workspace.path, name);
  const hasItsHome = { cwd: one.workspace.path, env: one.workspace.env };
  await Deno.mkdir(at("tools"));
  await Deno.writeTextFile(
    at("tools/status.sh"),
    "#!/bin/sh\necho STABLE_COMMIT $(git rev-parse HEAD || exit 1)\ngit log -1\n",
    {
      mode: 0o755,
    },
  );
  await Deno.writeTextFile(
    at("BUILD"),
    `genrule(name = "stamp", stamp = 1, outs = ["stamp.txt"], cmd = "grep COMMIT bazel-out/stable-status.txt > $@")\n`,
  );
  const identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"];
  for (const args of [["init", "-q"], ["add", "BUILD", "WORKSPACE"], [...identity, "commit", "-qm", "first"]]) {
    await output(["git", ...args], hasItsHome);
  }
  const commit = (await output(["git", "rev-parse", "HEAD"], hasItsHome)).trim();
  const build = () => one.run(["build", "--workspace_status_command=tools/status.sh", "//:stamp"]);
  const without = await build();
  assert.notEqual(without.code, Exit.OK);
  const sentences = without.stderr.split("\n").filter((line) => line.startsWith("rbs: ") && line.includes(".git"));
  assert.equal(sentences.length, 1, without.stderr);
  assert.match(sentences[0], /`!\.git`/);

  await Deno.writeTextFile(at(".rbsignore"), "!.git\n");
  const stamped = await build();
  assert.equal(stamped.code, Exit.OK, stamped.stderr);
  assert.equal(await Deno.readTextFile(at("bazel-bin/stamp.txt")), `STABLE_COMMIT ${commit}\n`);
});
