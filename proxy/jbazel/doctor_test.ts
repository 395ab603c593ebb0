import assert from "node:assert/strict";
import { authoritiesFile } from "../../proto/identity/key_directory.ts";
import { TestAuthority } from "../../proto/testing/certificates.ts";
import { giveUserKeys } from "../../proto/testing/keys.ts";
import { runDoctor } from "./doctor.ts";
import { FakeOrchestrator, TestPlace } from "./fake_services.ts";
import type { ProgramResult } from "./programs.ts";

const ran = (stdout: string, code = 0, stderr = ""): ProgramResult => ({ outcome: "ran", code, stdout, stderr });
const missing: ProgramResult = { outcome: "missing", code: -1, stdout: "", stderr: "" };

interface Report {
  ok: boolean;
  checks: { name: string; level: string; text: string; fix: string | null; command: string | null }[];
  next: { first: string | null; command: string };
}

/** A machine on which all is well, for a test to break. */
async function healthy() {
  const stack = new AsyncDisposableStack();
  const place = stack.use(new TestPlace());
  const orchestrator = stack.use(await FakeOrchestrator.start(place, 1));
  const javabase = `${place.root}/javabase`;
  Deno.mkdirSync(`${javabase}/bin`, { recursive: true });
  Deno.writeTextFileSync(`${javabase}/bin/java`, "#!/bin/sh\n# rbs\n", { mode: 0o755 });
  Deno.writeTextFileSync(`${place.workspace}/.bazelrc`, `startup "--server_javabase=${javabase}"\n`);
  const programs: Record<string, ProgramResult> = {
    bazel: ran("bazel 7.1.0"),
    java: ran("", 0, 'openjdk version "21.0.2"'),
    bwrap: ran("bubblewrap 0.8.0"),
    unshare: ran(""),
    gcc: ran("gcc 12"),
    ps: ran(""),
    [`${javabase}/bin/java`]: ran("", 36, "rbs: this program stands in for a Bazel server's JVM: run"),
  };
  const env: Record<string, string> = { HOME: place.root, USER: "ada" };
  const settings = {
    orchestrator: orchestrator.address,
    stateDirectory: place.stateDirectory,
    fallback: "error" as const,
  };
  const doctor = async (workingDirectory: string, json: boolean) => {
    const said: string[] = [];
    const context = {
      settings,
      workingDirectory,
      javabase,
      env: (name: string) => env[name],
      run: (name: string) => Promise.resolve(programs[name] ?? missing),
      systemRcFiles: [],
      uid: Deno.uid(),
      self: "jbazel",
      progress: { write: () => {}, columns: () => undefined },
    };
    const exitCode = await runDoctor({ ...context, json, say: (line) => void said.push(line) });
    return { exitCode, text: said.join("\n") };
  };
  const report = async (workingDirectory = place.workspace) => {
    const { exitCode, text } = await doctor(workingDirectory, true);
    const report = JSON.parse(text) as Report;
    assert.equal(exitCode, report.ok ? 0 : 1);
    return report;
  };
  /** What each check has found, in one line. */
  const run = async (workingDirectory?: string) => {
    const { checks } = await report(workingDirectory);
    return Object.fromEntries(checks.map((c) => [
      c.name,
      [
        `${c.level}: ${c.text}`,
        ...c.fix ? [` -> ${c.fix}`] : [],
        ...c.command ? [` $ ${c.command}`] : [],
      ].join(""),
    ]));
  };
  return {
    place,
    orchestrator,
    programs,
    settings,
    javabase,
    env,
    run,
    report,
    print: async (workingDirectory = place.workspace) => (await doctor(workingDirectory, false)).text,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

Deno.test("a healthy machine has no failure", async () => {
  await using t = await healthy();
  for (const [name, found] of Object.entries(await t.run())) {
    const levels = name === "disk space" ? /^(ok|warn|FAIL): / : name === "nested sandbox" ? /^skip: / : /^ok: /;
    assert.match(found, levels, name);
  }
  assert.deepEqual((await t.report()).next, { first: null, command: "bazel build //..." });
  assert.match(await t.print(), /^Fine:\n[^]*\nNext, run\n\n {4}bazel build \/\/\.\.\.$/);
});

Deno.test("each thing that is wrong is found, with how to fix it", async () => {
  await using t = await healthy();
  await t.orchestrator[Symbol.asyncDispose]();
  Deno.chmodSync(t.place.stateDirectory, 0o755);
  Deno.chmodSync(`${t.place.stateDirectory}/keys/user.pem`, 0o644);
  Deno.chmodSync(`${t.javabase}/bin/java`, 0o644);
  t.programs.bwrap = ran("", 1, "bwrap: No permissions to create new namespace");
  t.programs.unshare = t.programs.bwrap;
  t.programs.java = ran("", 0, 'openjdk version "17.0.1"');
  t.programs.ps = ran("  77 java --workspace_directory=/gone/away --x --server_javabase=/j --y\n 78 sleep");
  for (const name of ["bazel", "gcc"]) t.programs[name] = missing;
  const found = await t.run();
  assert.match(found["state directory"], /^FAIL: .* is open to others \(mode 755\) -> keep others out \$ chmod 700/);
  assert.match(found["key"], /^FAIL: .* can be read by other users \(mode 644\).* -> run `chmod 600`/);
  assert.match(found["orchestrator"], /^FAIL: the one of this machine does not run .*orchestrator install --port=\d+$/);
  assert.match(found["bazel"], /^FAIL: there is no bazel on PATH -> install/);
  assert.match(found["mount namespace"], /^warn: .*No permissions to create new namespace.* -> /);
  assert.match(found["C++ compiler"], /^warn: .*apt install g\+\+/);
  assert.match(found["javabase"], /^FAIL: .*is not executable -> /);
  assert.match(found["bazelrc"], /^skip: .*bazelrc names the javabase that fails above/);
  assert.match(found["leftovers"], /^warn: .*77 of \/gone\/away -> end them \$ kill 77$/);
});

Deno.test("a certificate that runs out, and an orchestrator that is away, are found", async () => {
  await using t = await healthy();
  await giveUserKeys(t.place.stateDirectory, "ada", { notAfter: new Date(Date.now() + 36 * 3600_000) });
  await t.orchestrator[Symbol.asyncDispose]();
  const found = await t.run();
  assert.match(found["key"], /^warn: ada's certificate in .*user\.pem is valid for 1 days -> .*jbazel login/);
  assert.match(
    found["orchestrator"],
    /^FAIL: the one of this machine does not run \(nothing listens at 127.*orchestrator install --port=\d+$/,
  );
});

Deno.test("a certificate or an authority that has expired, or an authority that soon will, is found", async () => {
  const hour = 3600_000, day = 24 * hour;
  await using t = await healthy();
  const { stateDirectory } = t.place;
  const past = { notBefore: new Date(Date.now() - 2 * hour), notAfter: new Date(Date.now() - hour) };
  await giveUserKeys(stateDirectory, "ada", past);
  assert.match((await t.run()).key, /^FAIL: The certificate in .*user\.pem expired at .* -> run `jbazel login` again/);

  const soon = await TestAuthority.make("soon", 20.5 * day);
  await giveUserKeys(stateDirectory, "ada", {}, soon);
  const file = authoritiesFile(stateDirectory);
  assert.match((await t.run()).authority, /^warn: .*ca\.crt is valid for 20 days -> ask the .* then run jbazel login$/);
  Deno.writeTextFileSync(`${stateDirectory}/keys/authority.pem`, "", { mode: 0o600 });
  assert.match((await t.run()).authority, /^warn: .* -> move .*authority\.pem away and start the orchestrator/);
  await giveUserKeys(stateDirectory, "ada", {}, await TestAuthority.make("gone", -hour / 12));
  assert.match((await t.run()).authority, /^warn: .*ca\.crt expired at \d{4}-.* -> /);

  // One that takes the other's place is there already.
  Deno.writeTextFileSync(file, `${soon.certificate}\n${(await TestAuthority.make("new", 99.5 * day)).certificate}\n`);
  assert.match((await t.run()).authority, /^ok: .* valid for 99 days$/);
  Deno.writeTextFileSync(file, "nonsense");
  assert.match((await t.run()).authority, /^FAIL: .*ca\.crt holds no certificate -> /);
});

Deno.test("a JDK that is too old, or none, is found", async () => {
  await using t = await healthy();
  t.programs.java = ran("", 0, 'openjdk version "17.0.1"');
  assert.match((await t.run()).JDK, /^warn: JDK 17, but this Bazel needs 21/);
  t.programs.bazel = ran("bazel no_version");
  assert.match((await t.run()).JDK, /^ok: JDK 17/);
  t.programs.java = missing;
  assert.match((await t.run()).JDK, /^warn: no JDK on PATH/);
});

Deno.test("a bazelrc without the line, another program as javabase, no workspace, a wrong key", async () => {
  await using t = await healthy();
  Deno.writeTextFileSync(`${t.place.workspace}/.bazelrc`, "");
  Deno.writeTextFileSync(`${t.javabase}/bin/java`, "#!/bin/sh\nexec other\n");
  await giveUserKeys(t.place.stateDirectory, "ada", {}, await TestAuthority.make());
  const found = await t.run();
  assert.match(found.bazelrc, /^warn: no bazelrc names RBS's javabase/);
  assert.match(found.javabase, /^FAIL: .* is not RBS's/);
  assert.match(
    found.orchestrator,
    /^FAIL: .*is not to be trusted: its certificate is not valid.* -> Correct RBS_ORCHESTRATOR_ADDR/,
  );
  assert.match((await t.run(t.place.root)).workspace, /^warn: you are not within one/);
});

Deno.test("what a killed server left is told from one that listens", async () => {
  await using t = await healthy();
  const base = `${t.place.root}/base`;
  Deno.mkdirSync(`${base}/server`, { recursive: true });
  const rc = `${t.place.workspace}/.bazelrc`;
  Deno.writeTextFileSync(rc, `startup "--output_base=${base}"\n`, { append: true });
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  Deno.writeTextFileSync(`${base}/server/server.pid.txt`, "4711");
  Deno.writeTextFileSync(`${base}/server/command_port`, `127.0.0.1:${port}`);
  const accepted = listener.accept();
  assert.match((await t.run()).leftovers, /^ok: none \(server 4711 of this workspace is alive\)/);
  (await accepted).close();
  listener.close();
  assert.match((await t.run()).leftovers, /^warn: .*left over from a server that was killed/);
});

Deno.test("where nothing is set up, the missing orchestrator is said once, and is what to start next", async () => {
  await using t = await healthy();
  await t.orchestrator[Symbol.asyncDispose]();
  Deno.removeSync(t.place.stateDirectory, { recursive: true });
  Deno.writeTextFileSync(`${t.place.root}/orchestrator`, "");
  Deno.writeTextFileSync(`${t.place.workspace}/.bazelrc`, "");
  const { checks, next } = await t.report();
  assert.deepEqual(checks.filter((c) => c.level === "FAIL").map((c) => c.name), ["orchestrator"]);
  for (const name of ["state directory", "key", "authority"]) {
    assert.equal(checks.find((c) => c.name === name)?.level, "skip", name);
  }
  const command = `'${t.place.root}/orchestrator' install --port=${t.orchestrator.address.split(":")[1]}`;
  assert.deepEqual(next, { first: null, command });
  const printed = await t.print();
  assert.equal(printed.split("nothing listens").length, 2, printed);
  assert.ok(printed.endsWith(`1 failure, 1 warning.\n\nNext, run\n\n    ${command}`), printed);
});

Deno.test("a key that is missing is told by where the orchestrator is", async () => {
  await using t = await healthy();
  Deno.removeSync(`${t.place.stateDirectory}/keys/user.pem`);
  const here = await t.run();
  assert.match(here.key, /^FAIL: there is none in .*, though something listens at .*RBS_STATE_DIR.* \$ jbazel login$/);
  assert.match(here.orchestrator, /^skip: it was not asked/);
  t.settings.orchestrator = "rbs.example:50051";
  const there = await t.report();
  assert.match(there.checks.find((c) => c.name === "key")!.text, /^there is none for rbs\.example:50051 in /);
  assert.deepEqual(there.next, { first: null, command: "jbazel login" });
});

Deno.test("what several checks stumble over is said once", async () => {
  await using t = await healthy();
  const file = authoritiesFile(t.place.stateDirectory);
  Deno.chmodSync(file, 0o644);
  const found = await t.run();
  assert.match(found.key, /^FAIL: .* can be read by other users \(mode 644\)/);
  assert.equal(found.authority, 'skip: see "key"');
  assert.equal(found.orchestrator, 'skip: see "key"');
  assert.equal((await t.print()).split("can be read by other users").length, 2);
});

Deno.test("a Bazel that tells no version is no mystery, and without one the next command installs it", async () => {
  await using t = await healthy();
  t.programs.bazel = ran("bazel no_version");
  assert.equal((await t.run()).bazel, "ok: a bazel that does not tell its version, such as Debian's");
  t.programs.bazel = missing;
  const { next } = await t.report();
  // Where there is no apt, a person has to know how.
  if (next.first === null) assert.match(next.command, /^(sudo )?apt install bazel-bootstrap$/);
  else assert.deepEqual([/^install it/.test(next.first), next.command], [true, "jbazel doctor"]);
});

Deno.test("where nothing failed, the next command is a build, by the stock bazel where that is set up", async () => {
  await using t = await healthy();
  Deno.writeTextFileSync(`${t.place.workspace}/.bazelrc`, "");
  assert.deepEqual((await t.report()).next, { first: null, command: "jbazel build //..." });
  assert.deepEqual((await t.report(t.place.root)).next, {
    first: "change to a workspace",
    command: "jbazel build //...",
  });
});

Deno.test("a rc line that depends on a Bazel that is not there is told", async () => {
  await using t = await healthy();
  Deno.renameSync(`${t.place.workspace}/.bazelrc`, `${t.place.workspace}/nine.rc`);
  Deno.writeTextFileSync(
    `${t.place.workspace}/.bazelrc`,
    "try-import-if-bazel-version >=9.0.0 %workspace%/nine.rc\n",
  );
  t.programs.bazel = missing;
  assert.match((await t.run()).bazelrc, /^warn: "try-import-if-bazel-version .* was not followed/);
  t.programs.bazel = ran("bazel 9.0.0");
  assert.match((await t.run()).bazelrc, /^ok: .*nine\.rc names /);
});
