import assert from "node:assert/strict";
import { join } from "node:path";
import { foreignHand } from "./owners.ts";

const isRoot = Deno.uid() === 0;

Deno.test("what is in nobody else's hands passes, and what others can replace is named", () => {
  const root = Deno.realPathSync(Deno.makeTempDirSync());
  try {
    const state = join(root, "open/state");
    Deno.mkdirSync(state, { recursive: true, mode: 0o700 });
    Deno.symlinkSync("open/state", join(root, "link"));
    assert.equal(foreignHand(state), undefined, "a sticky folder such as /tmp lets nobody take another's place");
    Deno.chmodSync(join(root, "open"), 0o777);
    assert.match(foreignHand(state)!, /^lies in .*\/open, which other users can write \(mode 777\)$/);
    assert.match(foreignHand(join(root, "link"))!, /\/open, which/, "where a symlink leads counts");
    Deno.chmodSync(join(root, "open"), 0o1777);
    assert.equal(foreignHand(state), undefined);
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
});

Deno.test({
  name: "another user's folder is named, also above",
  ignore: !isRoot,
  fn() {
    const root = Deno.realPathSync(Deno.makeTempDirSync());
    try {
      const state = join(root, "state");
      Deno.mkdirSync(state, { mode: 0o700 });
      Deno.chownSync(state, 4711, 4711);
      assert.equal(foreignHand(state), "belongs to another user (uid 4711)");
      Deno.chownSync(state, 0, 0);
      Deno.chownSync(root, 4711, 4711);
      assert.match(foreignHand(state)!, /^lies in .*, which belongs to another user \(uid 4711\)$/);
    } finally {
      Deno.removeSync(root, { recursive: true });
    }
  },
});
