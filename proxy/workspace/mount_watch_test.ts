import assert from "node:assert/strict";
import { eventually } from "../../tests/support/eventually.ts";
import { output } from "../../tests/support/run.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { MountWatch } from "./mount_watch.ts";

const asRoot = { ignore: Deno.uid() !== 0 };

/** Mounts a folder of a test on itself, until the scope ends. */
async function mounted(path: string): Promise<AsyncDisposable> {
  await output(["mount", "--bind", path, path]);
  return { [Symbol.asyncDispose]: async () => void await output(["umount", "--lazy", path]) };
}

/** The processes of this machine. */
async function processes(): Promise<{ pid: number; parent: number; args: string }[]> {
  const { stdout } = await new Deno.Command("ps", { args: ["-eo", "pid=,ppid=,args="] }).output();
  return [...new TextDecoder().decode(stdout).matchAll(/^ *(\d+) +(\d+) (.*)$/gm)]
    .map(([, pid, parent, args]) => ({ pid: Number(pid), parent: Number(parent), args }));
}

Deno.test("mount points are told as they come and go, whatever their names are", asRoot, async () => {
  await using temp = await tempDir();
  const points = [temp.join("plain"), temp.join("with a space\tand ü")];
  for (const path of points) Deno.mkdirSync(path);
  const told: string[] = [];
  using watch = new MountWatch((path) => told.push(path));
  watch.start();
  watch.start();
  // It takes a moment to begin.
  await eventually(async () => {
    await using _ = await mounted(points[0]);
    await new Promise((resolve) => setTimeout(resolve, 20));
    return told.includes(points[0]);
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  told.length = 0;
  {
    await using _ = await mounted(points[1]);
    await eventually(() => told.length === 1);
  }
  await eventually(() => told.length === 2);
  assert.deepEqual(told, [points[1], points[1]]);
});

Deno.test("who watches mounts ends with the proxy, however that ends", async () => {
  const module = JSON.stringify(import.meta.resolve("./mount_watch.ts"));
  const script = `import { MountWatch } from ${module};
    new MountWatch(() => {}).start();
    setInterval(() => {}, 1000);`;
  const proxy = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", script],
  }).spawn();
  let watching: number[] = [];
  await eventually(async () => {
    const all = await processes(), bash = all.find(({ parent }) => parent === proxy.pid);
    const findmnt = all.find(({ parent, args }) => parent === bash?.pid && args.startsWith("findmnt "));
    if (bash && findmnt) watching = [bash.pid, findmnt.pid];
    return watching.length > 0;
  });
  proxy.kill("SIGKILL");
  await proxy.status;
  await eventually(async () => !(await processes()).some(({ pid }) => watching.includes(pid)));
});

Deno.test("without findmnt nothing is told, and nothing is tried again", async () => {
  await using temp = await tempDir();
  const count = temp.join("count"), path = Deno.env.get("PATH");
  Deno.writeTextFileSync(count, "");
  Deno.writeTextFileSync(temp.join("findmnt"), `#!/bin/sh\necho x >> '${count}'\nexit 1\n`, { mode: 0o755 });
  Deno.env.set("PATH", `${temp.path}:${path}`);
  try {
    using watch = new MountWatch(() => assert.fail("there was nothing to tell"));
    watch.start();
    await eventually(() => Deno.statSync(count).size > 0);
    await new Promise((resolve) => setTimeout(resolve, 200));
    watch.start();
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(Deno.readTextFileSync(count), "x\n");
  } finally {
    Deno.env.set("PATH", path!);
  }
});
