import assert from "node:assert/strict";
import { basename, join } from "node:path";
import { eventually } from "../../tests/support/eventually.ts";
import { confinedCommand } from "./resource_limits.ts";
import { isRoot } from "./mount_namespace.ts";
import { shell } from "./shell.ts";
import { TestAgent, TestWorkspace } from "../test_agent.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

const LIMITS = { memoryBytes: 256 << 20, cpuMillis: 1500, pids: 40 };

/** Runs a script under limits, where /proc/self says what `cgroup` and `mountinfo` say. */
async function confined(
  files: { cgroup: string; mountinfo: string },
  script: string,
  env: Record<string, string> = {},
) {
  const directory = await tempDir(), temp = directory.path;
  const [proc, told] = [join(temp, "proc"), join(temp, "ctl")];
  for (const folder of [proc, told, join(temp, "fs/own")]) await Deno.mkdir(folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(join(proc, name), text.replaceAll("FS", join(temp, "fs")));
  }
  const command = confinedCommand(LIMITS, { storageDirectory: told, proc });
  const assignments = Object.entries(env).map(([name, value]) => `${name}=${value.replaceAll("FS", join(temp, "fs"))}`);
  const run = async () =>
    await shell(`exec env "$@"`, [...assignments, ...command, "bash", "-c", script.replaceAll("FS", join(temp, "fs"))]);
  const read = (path: string) => Deno.readTextFileSync(join(temp, path)).trim();
  const groups = () => read("ctl/cgroups").split("\n").filter((l) => l).map((l) => l.replace(temp, ""));
  return { temp, run, read, groups, [Symbol.asyncDispose]: directory[Symbol.asyncDispose] };
}

const V2 = {
  cgroup: "0::/own\n",
  mountinfo: "24 1 0:22 / /proc rw - proc proc rw\n30 1 0:26 / FS rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
};

Deno.test("where cgroup v2 has the controllers, a session gets a group of its own there with all limits", async () => {
  await using fake = await confined(V2, "echo $$");
  await Deno.writeTextFile(join(fake.temp, "fs/own/cgroup.controllers"), "cpuset cpu io memory pids\n");
  await Deno.writeTextFile(join(fake.temp, "fs/own/cgroup.subtree_control"), "cpu memory pids\n");
  const { code, stdout, stderr } = await fake.run();
  assert.equal(code, 0, stderr);
  const [group, ...others] = fake.groups();
  assert.deepEqual(others, []);
  assert.match(group, /^\/fs\/own\/rbs-[0-9a-f]{16}$/);
  assert.equal(fake.read(`${group}/memory.max`), String(256 << 20));
  assert.equal(fake.read(`${group}/cpu.max`), "150000 100000");
  assert.equal(fake.read(`${group}/pids.max`), "40");
  assert.equal(fake.read(`${group}/cgroup.procs`), stdout.trim());
  assert.equal(fake.read("ctl/limits"), "");
});

Deno.test("RBS_CGROUP names where a session's group is made", async () => {
  await using fake = await confined(V2, "true", { RBS_CGROUP: "FS/mine" });
  await Deno.mkdir(join(fake.temp, "fs/mine"));
  await Deno.writeTextFile(join(fake.temp, "fs/mine/cgroup.controllers"), "cpu memory pids\n");
  await Deno.writeTextFile(join(fake.temp, "fs/mine/cgroup.subtree_control"), "");
  assert.equal((await fake.run()).code, 0);
  assert.match(fake.groups().join(), /^\/fs\/mine\/rbs-[0-9a-f]{16}$/);
  assert.equal(fake.read("fs/mine/cgroup.subtree_control"), "+pids", "the last that was asked for");
});

for (const version of ["v2", "v1"]) {
  Deno.test(`the groups of agents that were killed go, and no others, with cgroup ${version}`, async () => {
    const v1 = {
      cgroup: "3:memory:/own\n2:cpu,cpuacct:/own\n1:pids:/own\n",
      mountinfo: "30 1 0:26 / FS rw - cgroup cgroup rw,memory,cpu,cpuacct,pids\n",
    };
    // The lock must end with the script.
    await using fake = await confined(version === "v2" ? V2 : v1, `flock -n FS/own true && echo free`);
    const own = join(fake.temp, "fs/own");
    if (version === "v2") {
      await Deno.writeTextFile(join(own, "cgroup.controllers"), "cpu memory pids\n");
      await Deno.writeTextFile(join(own, "cgroup.subtree_control"), "cpu memory pids\n");
    }
    const [left, used, others] = ["rbs-0123456789abcdef", "rbs-fedcba9876543210", "rbs-0123456789abcdef0"];
    for (const name of [left, used, others, "rbs-mine", "0123456789abcdef"]) await Deno.mkdir(join(own, name));
    // As the kernel refuses to remove a group with processes.
    await Deno.writeTextFile(join(own, used, "process"), "");
    const { code, stdout, stderr } = await fake.run();
    assert.equal(code, 0, stderr);
    assert.equal(stdout.trim(), "free");
    assert.equal(fake.read("ctl/limits"), "");
    const [group] = fake.groups();
    const found = Array.from(Deno.readDirSync(own)).filter((e) => e.isDirectory).map((e) => e.name);
    assert.deepEqual(found.sort(), [used, others, "rbs-mine", "0123456789abcdef", basename(group)].sort());
  });
}

Deno.test("without control groups each process is limited by itself, and what is not is said", async () => {
  const script = "ulimit -d; grep Cpus_allowed_list: /proc/self/status";
  await using fake = await confined({ cgroup: "0::/own\n", mountinfo: "" }, script);
  const { code, stdout, stderr } = await fake.run();
  assert.equal(code, 0, stderr);
  assert.equal(stdout.split("\n")[0], String(256 << 10));
  assert.deepEqual(fake.groups(), []);
  assert.deepEqual(fake.read("ctl/limits").split("\n"), [
    "its memory is limited for each process by itself",
    "its processors are limited to whole ones, chosen by number",
    "the number of its processes is not limited",
  ]);
});

/** Whether this machine gives the tests a control group for each of the limits. */
const hasGroups = (await (async () => {
  await using directory = await tempDir();
  const command = confinedCommand(LIMITS, { storageDirectory: directory.path });
  await shell(`"$@"`, [...command, "true"]);
  const limits = await Deno.readTextFile(directory.join("limits"));
  await shell(`while read -r group; do rmdir -- "$group"; done <"$1"`, [directory.join("cgroups")]);
  return limits === "";
})()) && await isRoot();

if (!hasGroups) {
  // Only the kernel can hold a session to these limits, and here it lets nobody make a group: root on a machine with cgroups of its own may.
  Deno.test.ignore("not run: sessions under limits of the kernel (this user gets no control group here)", () => {});
} else {
  Deno.test("a session that wants too much gets no more than its limits, and cannot raise them", async () => {
    await using workspace = await TestWorkspace.make();
    await using agent = await TestAgent.start(workspace, { limits: { ...LIMITS, memoryBytes: 256n << 20n } });
    using supervisor = agent.supervise();
    assert.deepEqual((await supervisor.ready()).warnings, []);
    const groups = (await Deno.readTextFile(join(workspace.storage, "cgroups"))).trim().split("\n");
    // tail keeps a last line that never ends.
    const swallow = (megabytes: number) => `head -c ${megabytes}M /dev/zero | tail | wc -c`;
    assert.equal(await agent.sh(swallow(50)), String(50 << 20));
    assert.notEqual(await agent.sh(swallow(400)), String(400 << 20));
    const forks = "timeout 3 bash -c 'for i in {1..100}; do sleep 3 & done' 2>&1 | grep -m1 -o fork:";
    assert.equal(await agent.sh(forks), "fork:");
    for (const group of groups) {
      const raise =
        `for file in ${group}/pids.max ${group}/memory.*; do echo 100000 >$file && echo $file; done 2>/dev/null`;
      assert.equal(await agent.sh(raise), "", "read-only in the session");
    }
    supervisor.call.send({ message: { case: "stop", value: { graceMs: 0 } } });
    assert.equal((await agent.process.status).code, 0);
    for (const group of groups) await assert.rejects(Deno.stat(group), Deno.errors.NotFound);
  });

  Deno.test("the groups of an agent that was killed are removed by the next one of another session", async () => {
    const limits = { ...LIMITS, memoryBytes: 256n << 20n };
    await using workspace = await TestWorkspace.make();
    await using other = await TestWorkspace.make();
    await using killed = await TestAgent.start(workspace, { limits });
    using first = killed.supervise();
    await first.ready();
    const groups = (await Deno.readTextFile(join(workspace.storage, "cgroups"))).trim().split("\n");
    killed.process.kill("SIGKILL");
    await killed.process.status;
    const empty = (group: string) => Deno.readTextFileSync(join(group, "cgroup.procs")) === "";
    await eventually(() => groups.every(empty));

    await using agent = await TestAgent.start(other, { limits });
    using second = agent.supervise();
    assert.deepEqual((await second.ready()).warnings, []);
    for (const group of groups) await assert.rejects(Deno.stat(group), Deno.errors.NotFound);
    second.call.send({ message: { case: "stop", value: { graceMs: 0 } } });
    await agent.process.status;
  });

  Deno.test("a Bazel server builds within limits that suffice", async () => {
    await using workspace = await TestWorkspace.make("ws", `genrule(name = "g", outs = ["o"], cmd = "echo x >$@")\n`);
    await using agent = await TestAgent.start(workspace, {
      startupOptions: workspace.startupOptions(),
      limits: { memoryBytes: 2n << 30n, cpuMillis: 2000, pids: 500 },
    });
    using supervisor = agent.supervise();
    assert.deepEqual((await supervisor.ready()).warnings, []);
    const { code, stderr } = await agent.run(["bazel", "build", "//:g"]);
    assert.equal(code, 0, stderr);
  });
}
