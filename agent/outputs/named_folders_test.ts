import assert from "node:assert/strict";
import { join } from "node:path";
import { Beneath } from "../files/beneath.ts";
import { makeNamedFolders } from "./named_folders.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

Deno.test("folders of named files are made where they are missing, and never through a symlink", async () => {
  await using directory = await tempDir();
  const root = directory.join("root"), outside = directory.join("outside");
  await Deno.mkdir(join(root, "home"), { recursive: true });
  await Deno.mkdir(outside);
  await Deno.symlink(outside, join(root, "home/link"));
  using storage = Beneath.open(directory.path);
  const logged: string[] = [];
  const files = ["/home/ann/logs/profile.gz", "/home/link/deep/x.json", "/usr/share/x", "/x"];
  makeNamedFolders({ files, folders: ["/home/ann/writable", "/usr/more"] }, {
    storage,
    root: "root",
    staging: "staging",
    isKept: (path) => !path.startsWith("/usr"),
    log: (line) => void logged.push(line),
  });
  for (const name of ["logs", "writable"]) assert.ok(Deno.lstatSync(join(root, "home/ann", name)).isDirectory);
  assert.deepEqual([...Deno.readDirSync(outside)], []);
  assert.deepEqual([...Deno.readDirSync(root)].map(({ name }) => name), ["home"]);
  assert.equal(logged.length, 1);
  assert.match(logged[0], /^the folder \/home\/link\/deep cannot be made: /);
});
