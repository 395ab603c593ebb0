import assert from "node:assert/strict";
import { isAlive } from "../mirror/support/processes.ts";
import { output, run, type Running, start } from "./run.ts";
import { type Machine, surroundings, surroundingVariables, twoMachines } from "./two_machines.ts";

/** Serves one connection after the other: says "hello", then sends back what it gets. */
const ECHO = `
const listener = Deno.listen({ hostname: "0.0.0.0", port: 0 });
console.log("port", listener.addr.port);
for await (const connection of listener) {
  await connection.write(new TextEncoder().encode("hello"));
  connection.readable.pipeTo(connection.writable).catch(() => {});
}`;

/** Connects, and prints the milliseconds that it took; then sends each line of its input, and prints what comes back. */
const CLIENT = `
const [hostname, port] = Deno.args;
const began = performance.now();
const connection = await Deno.connect({ hostname, port: Number(port) });
console.log("connected in", performance.now() - began);
const decoder = new TextDecoderStream();
connection.readable.pipeThrough(decoder).pipeTo(new WritableStream({ write: (text) => console.log("got", text) }))
  .catch((error) => console.log("broken:", error.name));
setInterval(() => connection.write(new TextEncoder().encode("!")).catch(() => {}), 50);`;

function script(code: string, ...args: string[]): string[] {
  return [Deno.execPath(), "eval", "--quiet", code, ...args];
}

/** A server on the cloud, and how to connect to it from the laptop. */
async function echo(cloud: Machine, laptop: Machine) {
  const server = start(script(ECHO), { on: cloud });
  const [, port] = await server.says(/port (\d+)/);
  return {
    connect: () => start(script(CLIENT, cloud.address, port), { on: laptop }),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** How often a client has got an answer. */
async function answers(client: Running, more: number) {
  await client.says(new RegExp(`^got hello[^]*${"got !+[^]*".repeat(more)}`, "m"));
}

Deno.test("the link takes its time, and carries what TCP needs to be whole in spite of its losses", async () => {
  await using machines = await twoMachines({ seed: 1, loss: 0.1 });
  await using server = await echo(machines.cloud, machines.laptop);
  await using client = server.connect();
  const [, took] = await client.says(/connected in ([\d.]+)/);
  assert(Number(took) >= 20, `a round trip took ${took} ms`);
  await answers(client, 10);
  const { there, back } = await machines.link.count();
  assert(there.packets > 10 && back.packets > 10 && there.bytes > 400, JSON.stringify({ there, back }));
  assert(there.lost + back.lost > 0, "nothing was lost");
});

Deno.test("a cut link is silence, and after it the same connection goes on", async () => {
  await using machines = await twoMachines({ loss: 0, delayMs: 0 });
  await using server = await echo(machines.cloud, machines.laptop);
  await using client = server.connect();
  await answers(client, 1);
  await machines.link.cut();
  const before = await machines.link.count();
  await new Promise((resolve) => setTimeout(resolve, 300)); // The silence itself.
  const after = await machines.link.count();
  assert.equal(after.back.packets, before.back.packets);
  assert(after.there.lost > before.there.lost, "nobody tried");
  await machines.link.heal();
  await answers(client, 5);
});

Deno.test("a reset link ends connections and lets none be made, until it is healed", async () => {
  await using machines = await twoMachines({ loss: 0, delayMs: 1 });
  await using server = await echo(machines.cloud, machines.laptop);
  await using client = server.connect();
  await answers(client, 1);
  await machines.link.reset();
  await client.says(/broken: ConnectionReset/);
  await using another = server.connect();
  const early = answers(another, 1).then(() => "connected");
  const silence = new Promise((resolve) => setTimeout(() => resolve("silence"), 300));
  assert.equal(await Promise.race([early, silence]), "silence");
  await machines.link.heal();
  await early;
});

Deno.test("a laptop without a network is told at once, and comes back with another address", async () => {
  await using machines = await twoMachines({ loss: 0, delayMs: 1 });
  await using server = await echo(machines.cloud, machines.laptop);
  await machines.link.unplug();
  assert.match((await server.connect().finished).stderr, /[Uu]nreachable/);
  await machines.link.plugIn();
  await using client = server.connect();
  await answers(client, 1);
  assert.match(await output(["ip", "-brief", "address"], { on: machines.laptop }), /192\.0\.2\.100\/24/);
});

Deno.test("a slow link carries no more than its rate", async () => {
  await using machines = await twoMachines({ loss: 0, delayMs: 1, rate: 8_000_000 });
  const { cloud, laptop } = machines;
  await using server = start(
    script(`
      const listener = Deno.listen({ hostname: "0.0.0.0", port: 0 });
      console.log("port", listener.addr.port);
      for await (const c of listener) { await new Blob([new Uint8Array(1_000_000)]).stream().pipeTo(c.writable); }`),
    { on: cloud },
  );
  const [, port] = await server.says(/port (\d+)/);
  const { code, stdout } = await run(
    script(
      `
      const began = performance.now();
      const connection = await Deno.connect({ hostname: Deno.args[0], port: Number(Deno.args[1]) });
      const { byteLength } = await new Response(connection.readable).arrayBuffer();
      console.log(byteLength, performance.now() - began);`,
      cloud.address,
      port,
    ),
    { on: laptop },
  );
  assert.equal(code, 0);
  const [bytes, took] = stdout.split(" ").map(Number);
  assert.equal(bytes, 1_000_000);
  assert(took > 900, `1 MB at 1 MB/s took ${took} ms`);
});

Deno.test("neither machine sees the other's folder, and both see the shared one", async () => {
  await using machines = await twoMachines();
  const { laptop, cloud, shared } = machines;
  for (const on of [laptop, cloud]) await output(["sh", "-c", 'echo it > "$0/own"', on.directory], { on });
  const list = async (on: Machine, folder: string) => (await output(["ls", "-A", folder], { on })).trim();
  assert.equal(await list(laptop, laptop.directory), "own");
  assert.equal(await list(laptop, cloud.directory), "");
  assert.equal(await list(cloud, laptop.directory), "");
  assert.notEqual((await run(["touch", `${laptop.directory}/x`], { on: cloud })).code, 0);
  await output(["touch", `${shared}/both`], { on: cloud });
  assert.equal(await list(laptop, shared), "both");
});

Deno.test("a program runs there in the folder, with the input and the exit code that it has here", async () => {
  await using machines = await twoMachines();
  const { laptop: on } = machines;
  const cwd = on.directory;
  const { code, stdout } = await run(["sh", "-c", "pwd; cat; exit 7"], { on, cwd, stdin: "input" });
  assert.deepEqual([code, stdout], [7, `${cwd}\ninput`]);
});

Deno.test("all that ran there ends with the scope, and two pairs do not meet", async () => {
  let pid: string;
  let folder: string;
  {
    await using machines = await twoMachines({ loss: 0, delayMs: 0 });
    await using others = await twoMachines({ loss: 0, delayMs: 0 });
    await using server = await echo(machines.cloud, machines.laptop);
    await using client = server.connect();
    await answers(client, 1);
    assert.equal((await others.link.count()).there.bytes < 1_000, true);
    folder = machines.laptop.directory;
    pid = await output(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"], { on: machines.laptop });
    assert(await isAlive(Number(pid)));
  }
  assert(!await isAlive(Number(pid)));
  await assert.rejects(Deno.stat(folder), Deno.errors.NotFound);
});

Deno.test("a test that runs on the laptop finds the cloud by its variables", async () => {
  await using machines = await twoMachines();
  const env = surroundingVariables(machines);
  const test = `
    const { surroundings } = await import(${JSON.stringify(import.meta.resolve("./two_machines.ts"))});
    const { output } = await import(${JSON.stringify(import.meta.resolve("./run.ts"))});
    const { cloud } = surroundings();
    console.log(await output(["hostname", "-I"], { on: cloud }), await Deno.makeTempDir());`;
  assert.equal(surroundings(), undefined);
  const said = await output(script(test), { on: machines.laptop, env });
  assert.match(said, /^192\.0\.2\.2 /);
  assert(said.includes(machines.laptop.directory));
});
