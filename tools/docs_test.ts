/** The documents: their links lead somewhere, and what they quote is in the code. */
import assert from "node:assert/strict";
import { dirname, join, relative } from "node:path";

const ROOT = new URL("..", import.meta.url).pathname;

/** All Markdown files of the repository. Absolute. */
async function documents(): Promise<string[]> {
  const found: string[] = [];
  for (const folder of ["", "docs/"]) {
    for await (const { name } of Deno.readDir(ROOT + folder)) {
      if (name.endsWith(".md")) found.push(ROOT + folder + name);
    }
  }
  return found.sort();
}

/** As GitHub names the anchor of a heading. */
function anchor(heading: string): string {
  return heading.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(" ", "-");
}

async function anchorsOf(file: string): Promise<Set<string>> {
  const text = (await Deno.readTextFile(file)).replace(/^```[^]*?^```/gm, "");
  return new Set([...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchor(heading)));
}

Deno.test("each link of a document leads to a file, and to a heading that is there", async () => {
  const all = await documents();
  assert(all.length >= 3, `only ${all}`);
  const broken: string[] = [];
  for (const file of all) {
    const text = (await Deno.readTextFile(file)).replace(/^```[^]*?^```/gm, "");
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [path, heading] = target.split("#");
      const full = path === "" ? file : join(dirname(file), path);
      const exists = await Deno.stat(full).then(() => true, () => false);
      if (!exists || (heading && !(await anchorsOf(full)).has(heading))) {
        broken.push(`${relative(ROOT, file)}: ${target}`);
      }
    }
  }
  assert.deepEqual(broken, []);
});

/** A program's sources with their strings in one piece, and what is computed in them left out. */
async function sources(): Promise<string> {
  let all = "";
  const visit = async (folder: string) => {
    for await (const { name, isDirectory } of Deno.readDir(folder)) {
      const path = join(folder, name);
      if (isDirectory) await visit(path);
      else if (name.endsWith(".ts") && !name.endsWith("_test.ts")) all += await Deno.readTextFile(path) + "\n";
    }
  };
  for (const program of ["agent", "orchestrator", "proto", "proxy"]) await visit(ROOT + program);
  return all.replace(/(["`])\s*\+\s*["`]/g, "").replaceAll("\\`", "`").replaceAll('\\"', '"');
}

Deno.test("what docs/troubleshooting.md and docs/operations.md quote is in the code", async () => {
  const code = await sources();
  // A list item begins with what is quoted, up to its colon.
  const text = (await Deno.readTextFile(`${ROOT}docs/troubleshooting.md`)).replaceAll("\\`", "\0").replace(
    /\n {2}/g,
    " ",
  );
  const quotes = [...text.matchAll(/^- (`[^`]*`(?:, `[^`]*`)*)/gm)].flatMap(([, some]) => some.split(/(?<=`), /))
    .map((quote) => quote.slice(1, -1));
  assert(quotes.length > 100, `only ${quotes.length} quotes were found`);
  // There, a row begins with what is quoted.
  const rows = [...(await Deno.readTextFile(`${ROOT}docs/operations.md`)).matchAll(/^\| "([^"]+)"/gm)];
  assert(rows.length > 0, "docs/operations.md quotes nothing");
  quotes.push(...rows.map(([, quote]) => quote));
  const escape = (part: string) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const missing = quotes.filter((quote) => {
    const parts = quote.split("…").map((part) => part.trim()).filter((part) => part !== "").map(escape);
    return !new RegExp(parts.join("[^]{0,200}?")).test(code);
  });
  assert.deepEqual(missing, []);
});

/** Each test file and contract of the repository: its path, and its text with strings in one piece. */
async function testFiles(): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const visit = async (folder: string) => {
    for await (const { name, isDirectory } of Deno.readDir(ROOT + folder)) {
      const path = `${folder}/${name}`;
      if (isDirectory) await visit(path);
      else if (folder.includes("floods") || /_(test|contract)\.ts$/.test(name)) {
        found.set(path, (await Deno.readTextFile(ROOT + path)).replace(/(["`])\s*\+\s*["`]/g, ""));
      }
    }
  };
  for (const folder of ["agent", "orchestrator", "proto", "proxy", "tests"]) await visit(folder);
  return found;
}

Deno.test("the tests that SECURITY.md names are there", async () => {
  const files = await testFiles();
  const wrong: string[] = [];
  for (const line of (await Deno.readTextFile(`${ROOT}SECURITY.md`)).split("\n")) {
    const cited = line.startsWith("|") ? line.split("|")[2] : line;
    for (const [name] of cited.matchAll(/[\w/.-]+_(?:test|contract)\b/g)) {
      if (![...files.keys()].some((path) => `/${path}`.endsWith(`/${name}.ts`))) wrong.push(name);
    }
    if (!line.startsWith("|")) continue;
    for (const [, title] of cited.matchAll(/"([^"]*)"/g)) {
      const parts = title.split("…").map((part) => part.trim()).filter((part) => part !== "");
      const pattern = new RegExp(parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("[^]{0,150}?"));
      if (![...files.values()].some((text) => pattern.test(text))) wrong.push(title);
    }
  }
  assert.deepEqual(wrong, []);
});
