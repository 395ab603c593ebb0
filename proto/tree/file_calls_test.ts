import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { decodeName } from "./names.ts";
import {
  chmodSync,
  copyFileSync,
  lstatMany,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  removeSync,
  renameSync,
  symlinkSync,
} from "./file_calls.ts";

/** Names that a shell, a format or a list may stumble over, each with a byte that is not UTF-8. */
const NAMES = [
  "\xff",
  "-rf\xff",
  "a b\n\xff",
  "\xff\n",
  "$(touch x)\xff`touch y`",
  "%s%n\\x41\\c\xff",
  "'\"\xff",
  "*\xff",
  "[\xff]",
  "\\\xff",
  "\xc3",
  "~\xff",
].map((name) => decodeName(Buffer.from(name, "latin1")));

Deno.test("whatever can be done with a file can be done whatever its name", async () => {
  await using directory = await tempDir();
  for (const name of NAMES) {
    const folder = directory.join(name), file = `${folder}/${name}`;
    mkdirSync(folder);
    assert.equal(lstatSync(folder).kind, "directory");
    Deno.writeTextFileSync(directory.join("new"), "content");
    Deno.utimeSync(directory.join("new"), new Date(1_700_000_000_123), new Date(1_700_000_000_123));
    renameSync(directory.join("new"), file);
    chmodSync(file, 0o754);
    const info = lstatSync(file);
    assert.deepEqual([info.kind, info.mode & 0o7777, info.size, info.mtimeMs], ["file", 0o754, 7, 1_700_000_000_123]);
    assert.equal(Buffer.from(readFileSync(file)).toString(), "content");
    copyFileSync(file, `${folder}/copy`);
    symlinkSync(`../${name}`, `${folder}/link${name}`);
    assert.equal(lstatSync(`${folder}/link${name}`).target, `../${name}`);
    symlinkSync(name, `${folder}/to`);
    assert.equal(lstatSync(`${folder}/to`).target, name);
    assert.deepEqual(readdirSync(folder).sort(), [name, `link${name}`, "copy", "to"].sort());
    renameSync(file, `${folder}/copy`);
    removeSync(`${folder}/link${name}`);
    assert.deepEqual(readdirSync(folder).sort(), ["copy", "to"]);
  }
  assert.deepEqual(readdirSync(directory.path).sort(), [...NAMES].sort());
  const all = lstatMany([...NAMES.map((name) => directory.join(name)), directory.join("gone\udcff")]);
  assert.deepEqual([...all.keys()].sort(), NAMES.map((name) => directory.join(name)).sort());
  for (const name of NAMES) removeSync(directory.join(name), { recursive: true });
  assert.deepEqual(readdirSync(directory.path), []);
});

Deno.test("a name that Deno shows like one that is not UTF-8 is told from it", async () => {
  await using directory = await tempDir();
  const real = "\ufffd", raw = decodeName(Uint8Array.of(0xff));
  Deno.writeTextFileSync(directory.join(real), "real");
  Deno.writeTextFileSync(directory.join("new"), "not");
  renameSync(directory.join("new"), directory.join(raw));
  assert.deepEqual(readdirSync(directory.path).sort(), [raw, real].sort());
  assert.equal(lstatSync(directory.join(real)).size, 4);
  assert.equal(lstatSync(directory.join(raw)).size, 3);
});

Deno.test("what is not there is not found, whatever its name", async () => {
  await using directory = await tempDir();
  for (const name of ["gone", "gone\udcff"]) {
    for (const act of [lstatSync, readdirSync, readFileSync, removeSync]) {
      assert.throws(() => act(directory.join(name)), Deno.errors.NotFound, `${act.name} ${JSON.stringify(name)}`);
    }
  }
  assert.throws(() => mkdirSync(directory.join("gone/a\udcff")), /No such file or directory/);
});

Deno.test("a thousand such names are looked at together", async () => {
  await using directory = await tempDir();
  const script =
    `cd "$1" && for ((i = 0; i < 1000; i++)); do printf -v n "file-%s-%0200d-\\xff" "$i" 0; : > "$n"; done`;
  await new Deno.Command("bash", { args: ["-c", script, "bash", directory.path], env: { LC_ALL: "C" } }).output();
  const names = readdirSync(directory.path);
  assert.equal(names.length, 1000);
  assert.equal(lstatMany(names.map((name) => directory.join(name))).size, 1000);
});

Deno.test("names that are not UTF-8 need no right but that of running bash", async () => {
  await using directory = await tempDir();
  const module = JSON.stringify(new URL("./file_calls.ts", import.meta.url));
  Deno.writeTextFileSync(
    directory.join("main.ts"),
    `import { mkdirSync, readdirSync } from ${module};
    mkdirSync(Deno.args[0] + "/\\udcff");
    console.log(JSON.stringify(readdirSync(Deno.args[0])));`,
  );
  Deno.mkdirSync(directory.join("tree"));
  const rights = ["--allow-read", "--allow-write", "--allow-run=bash", "--no-prompt", "--no-config"];
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", ...rights, directory.join("main.ts"), directory.join("tree")],
  }).output();
  assert.equal(new TextDecoder().decode(stdout), '["\\udcff"]\n');
});
