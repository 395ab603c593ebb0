/** For tests: what a session's programs may do to the agent's paths. */

/** Calls renameat2(2) with RENAME_EXCHANGE in a loop. */
const EXCHANGE = `
const { symbols: c } = Deno.dlopen("libc.so.6", {
  renameat2: { parameters: ["i32", "buffer", "i32", "buffer", "u32"], result: "i32" },
});
const [a, b] = Deno.args.map((path) => new TextEncoder().encode(path + "\\0"));
for (let i = 0;; i++) {
  if (c.renameat2(-100, a, -100, b, 2) !== 0) Deno.exit(1);
  if (i === 0) console.log("begun");
}`;

/** Calls it once, when something happens in a directory. */
const EXCHANGE_ONCE = `
const { symbols: c } = Deno.dlopen("libc.so.6", {
  renameat2: { parameters: ["i32", "buffer", "i32", "buffer", "u32"], result: "i32" },
});
const [a, b] = Deno.args.map((path) => new TextEncoder().encode(path + "\\0"));
const watcher = Deno.watchFs(Deno.args[0], { recursive: false });
console.log("begun");
for await (const _ of watcher) Deno.exit(c.renameat2(-100, a, -100, b, 2) === 0 ? 0 : 1);
`;

/**
 * Makes another process exchange two absolute paths as soon as anything happens in the first, a directory.
 * @returns waits until it has
 */
export async function exchangingAtFirstChange(a: string, b: string): Promise<() => Promise<void>> {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["eval", EXCHANGE_ONCE, a, b],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const output = process.stdout.getReader();
  if ((await output.read()).done) throw new Error(`${a} cannot be watched`);
  return async () => {
    const { success } = await process.status;
    await output.cancel();
    if (!success) throw new Error(`${a} and ${b} cannot be exchanged`);
  };
}

/** Makes another process exchange two absolute paths in a loop until it is disposed of. */
export async function exchanging(a: string, b: string): Promise<AsyncDisposable> {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["eval", EXCHANGE, a, b],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const output = process.stdout.getReader();
  if ((await output.read()).done) throw new Error(`${a} and ${b} cannot be exchanged`);
  return {
    async [Symbol.asyncDispose]() {
      process.kill("SIGKILL");
      await output.cancel();
      await process.status;
    },
  };
}
