import assert from "node:assert/strict";
import { foreignHand } from "./owners.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

const isRoot = Deno.uid() === 0;

Deno.test("what is in nobody else's hands passes, and what others can replace is named", () => {
  using root = tempDirSync();
  const state = root.join("open/state");
  Deno.mkdirSync(state, { recursive: true, mode: 0o700 });
  Deno.symlinkSync("open/state", root.join("link"));
  assert.equal(foreignHand(state), undefined, "a sticky folder such as /tmp lets nobody take another's place");
  Deno.chmodSync(root.join("open"), 0o777);
  assert.match(foreignHand(state)!, /^lies in .*\/open, which other users can write \(mode 777\)$/);
  assert.match(foreignHand(root.join("link"))!, /\/open, which/, "where a symlink leads counts");
  Deno.chmodSync(root.join("open"), 0o1777);
  assert.equal(foreignHand(state), undefined);
});

Deno.test({
  name: "another user's folder is named, also above",
  ignore: !isRoot,
  fn() {
    using root = tempDirSync();
    const state = root.join("state");
    Deno.mkdirSync(state, { mode: 0o700 });
    Deno.chownSync(state, 4711, 4711);
    assert.equal(foreignHand(state), "belongs to another user (uid 4711)");
    Deno.chownSync(state, 0, 0);
    Deno.chownSync(root.path, 4711, 4711);
    assert.match(foreignHand(state)!, /^lies in .*, which belongs to another user \(uid 4711\)$/);
  },
});
