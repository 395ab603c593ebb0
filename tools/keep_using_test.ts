import assert from "node:assert/strict";
import { tempDir } from "../tests/support/temp_dir.ts";
import { output } from "../tests/support/run.ts";
import { keepUsing } from "./keep_using.ts";

const PROGRAM = `
const open = (name: string) => ({ name, [Symbol.dispose]: () => console.log("closed", name) });
const openLater = async (name: string) => { await 0; return { name, [Symbol.asyncDispose]: () => (console.log("closed", name), 0) }; };
function once() { using file = open("once"); if (!file) return; console.log("body"); }
function returned() { using file = open("returned"); return file.name; }
function long() {
  using file = [1].map((n) => {
    const { name, [Symbol.dispose]: close } = open("long");
    return { name: name + n, [Symbol.dispose]: close };
  })[0];
  console.log(file.name);
}
async function later() { await using file = await openLater("later"); console.log(file.name); }
once();
returned();
long();
await later();
`;

Deno.test("what is disposed of at the end of a scope is so in a bundle that was made small", async () => {
  await using folder = await tempDir();
  const at = (name: string) => folder.join(name);
  const bundle = (...args: string[]) =>
    output([Deno.execPath(), "bundle", "--quiet", "--no-check", "--no-config", ...args]);
  await Deno.writeTextFile(at("program.ts"), PROGRAM);
  await bundle("--output", at("plain.js"), at("program.ts"));
  await Deno.writeTextFile(at("kept.js"), keepUsing(await Deno.readTextFile(at("plain.js"))));
  await bundle("--minify", "--output", at("small.js"), at("kept.js"));
  const run = (name: string) => output([Deno.execPath(), "run", "--quiet", "--no-config", at(name)]);
  const said = await run("program.ts");
  assert.equal(said.match(/closed/g)?.length, 4);
  assert.equal(await run("small.js"), said);
});
