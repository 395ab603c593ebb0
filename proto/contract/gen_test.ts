import assert from "node:assert/strict";
import { join } from "node:path";
import { run } from "../../tests/support/run.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

Deno.test("the generated code is what `deno task proto` makes of the .proto files", async () => {
  await using directory = await tempDir();
  const buf = ["run", "--quiet", "--frozen", "--allow-all", "npm:@bufbuild/buf@1.74.0"];
  const argv = [Deno.execPath(), ...buf, "generate", "--output", directory.path];
  const { code, stderr } = await run(argv, {
    cwd: import.meta.dirname!,
    env: { HOME: homeOrTemporary(directory.path) },
  });
  assert.equal(code, 0, stderr);

  const [current, checkedIn] = [await files(directory.join("gen")), await files(join(import.meta.dirname!, "gen"))];
  assert.deepEqual([...checkedIn.keys()], [...current.keys()], "run `deno task proto`");
  for (const [name, text] of current) {
    assert.ok(checkedIn.get(name) === text, `${name} is stale: run \`deno task proto\``);
  }
});

/** buf wants a home for its cache. */
function homeOrTemporary(temporary: string): string {
  return Deno.env.get("HOME") || temporary;
}

/** The texts of the files in a folder by their relative paths, sorted. */
async function files(directory: string, prefix = ""): Promise<Map<string, string>> {
  const found: [string, string][] = [];
  for await (const entry of Deno.readDir(join(directory, prefix))) {
    const name = join(prefix, entry.name);
    if (entry.isDirectory) found.push(...await files(directory, name));
    else found.push([name, await Deno.readTextFile(join(directory, name))]);
  }
  return new Map(found.sort(([a], [b]) => a < b ? -1 : 1));
}
