import assert from "node:assert/strict";
import { bytesValue, scanFields, textValue, varintValue } from "../../proto/base/protobuf_fields.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { FollowedFiles } from "./followed_files.ts";
import { findNamedFile } from "./named_files.ts";
import { sessionFiles } from "./testing/session_files.ts";

/** What a caller has of each file who takes parts as they say. */
class Taken {
  readonly texts = new Map<string, string>();

  readonly take = (part: Uint8Array) => {
    let path = "", offset = 0, content = "";
    scanFields(part, (field) => {
      if (field.number === 1) path = textValue(part, field);
      else if (field.number === 2) offset = varintValue(part, field);
      else content = new TextDecoder().decode(bytesValue(part, field));
    });
    const before = this.texts.get(path) ?? "";
    assert.ok(offset === 0 || offset === before.length, `${offset} bytes`);
    this.texts.set(path, offset === 0 ? content : before + content);
    return undefined;
  };
}

Deno.test("what is written to a named file comes while it is written, also when it begins anew", async () => {
  await using files = await sessionFiles();
  const path = `${files.workspace}/bep.json`, here = files.hostPath(path);
  const find = (path: string) => findNamedFile(path, { ...files, mounts: [files.workspace] });
  const followed = new FollowedFiles(files.storage, { paths: [path], pipes: [], find });
  const { take, texts } = new Taken();
  const comes = (text: string) => eventually(() => texts.get(path) === text, `it is ${text}`);
  followed.begin(take);
  Deno.writeTextFileSync(here, "one ");
  await comes("one ");
  Deno.writeTextFileSync(here, "two ", { append: true });
  await comes("one two ");
  Deno.writeTextFileSync(here, "new");
  await comes("new");
  Deno.removeSync(here);
  Deno.writeTextFileSync(`${here}.tmp`, "another");
  Deno.renameSync(`${here}.tmp`, here);
  await comes("another");
  Deno.writeTextFileSync(here, ", and its end", { append: true });
  await followed.finish(take);
  assert.equal(texts.get(path), "another, and its end");
});

Deno.test("at the end comes what is small or for a pipe; links and what is no file never", async () => {
  await using files = await sessionFiles();
  const { workspace } = files;
  const large = "x".repeat(3 << 20);
  files.write({
    [`${workspace}/small`]: "small",
    [`${workspace}/large`]: large,
    [`${workspace}/pipe`]: large,
    [`${workspace}/secret`]: { link: "/etc/passwd" },
    [`${workspace}/folder`]: "folder/",
  });
  const paths = ["small", "large", "pipe", "secret", "folder", "missing"].map((name) => `${workspace}/${name}`);
  const find = (path: string) => findNamedFile(path, { ...files, mounts: [workspace] });
  const followed = new FollowedFiles(files.storage, { paths, pipes: [`${workspace}/pipe`], find });
  const { take, texts } = new Taken();
  await followed.finish(take);
  assert.deepEqual([...texts.keys()], [`${workspace}/small`, `${workspace}/pipe`]);
  assert.equal(texts.get(`${workspace}/pipe`), large);
});
