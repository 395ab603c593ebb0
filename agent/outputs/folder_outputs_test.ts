import assert from "node:assert/strict";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { FolderOutputs } from "./folder_outputs.ts";

Deno.test("folders of which Bazel warns are known by their rule's label", () => {
  const folders = new FolderOutputs();
  const warning = (path: string, label: string) =>
    `\x1b[35mWARNING: \x1b[0m/ws/BUILD:1:8: output '${path}' of ${label} is a directory; dependency checking of directories is unsound\n`;
  folders.read(encodeFields([[3, `[1 / 2]\n${warning("tree", "//:a")}${warning("p/tree", "//p:b")}`]]));
  folders.read(encodeFields([[2, warning("printed", "//:a")]]));
  folders.read(encodeFields([[3, warning("/etc", "//:a") + warning("../x", "//:a") + warning("p/other", "//p:b")]]));
  assert.deepEqual(folders.of(new Set(["//:a", "//:none"])), ["tree"]);
  assert.deepEqual(folders.of(new Set(["//p:b"])), ["p/tree", "p/other"]);
});
