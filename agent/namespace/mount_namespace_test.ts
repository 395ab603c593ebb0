import assert from "node:assert/strict";

Deno.test("an agent that could not find out as whom it runs asks again", async () => {
  // In a process of its own: the environment is all tests'.
  const program = `
    const { isRoot } = await import(${JSON.stringify(import.meta.resolve("./mount_namespace.ts"))});
    const failure = await isRoot().catch(() => "failed");
    Deno.env.set("PATH", ${JSON.stringify(Deno.env.get("PATH"))});
    console.log(failure, await isRoot());
  `;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--quiet", program],
    env: { PATH: "/nowhere" },
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assert.equal(text(stdout), `failed ${Deno.uid() === 0}\n`, text(stderr));
});
