import assert from "node:assert/strict";
import { documentedNames, namesInCode, SETTINGS_FILE, settingsDocs } from "./settings_docs.ts";

Deno.test("docs/settings.md is what the code makes of it", async () => {
  assert.equal(await Deno.readTextFile(SETTINGS_FILE), await settingsDocs(), "run `deno task docs`");
});

Deno.test("each RBS_ variable that the code names has a row", async () => {
  const documented = documentedNames(await Deno.readTextFile(SETTINGS_FILE));
  const names = await namesInCode();
  assert(names.size > 40, `only ${names.size} names were found`);
  const missing = [...names].filter(([name]) => !documented.has(name)).map(([name, file]) => `${name} in ${file}`);
  assert.deepEqual(missing, [], "add a row to tools/settings_docs.ts");
});

Deno.test("each variable of the tables is named in the code", async () => {
  const names = await namesInCode();
  const unknown = [...documentedNames(await Deno.readTextFile(SETTINGS_FILE))].filter((name) => !names.has(name));
  assert.deepEqual(unknown, []);
});
