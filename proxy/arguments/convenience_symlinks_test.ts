import assert from "node:assert/strict";
import { convenienceSymlinks } from "./convenience_symlinks.ts";
import { type Request, request } from "./testing.ts";

const links = (of: Request) => convenienceSymlinks(request(of));

Deno.test("the prefix is the last that counts for the command", () => {
  const rc = ["build --symlink_prefix=rc-", "query --symlink_prefix=query-"];
  assert.deepEqual(links({}), { prefix: "bazel-", clean: false });
  assert.deepEqual(links({ rc }), { prefix: "rc-", clean: false });
  assert.deepEqual(links({ rc, typed: ["--symlink_prefix", "b-"] }), { prefix: "b-", clean: false });
  assert.deepEqual(links({ typed: ["--symlink_prefix="] }), { prefix: "bazel-", clean: false });
  assert.deepEqual(links({ typed: ["--symlink_prefix=\xc3\xb6-"] }), { prefix: "ö-", clean: false });
  assert.deepEqual(links({ command: "run", typed: ["//:t", "--", "--symlink_prefix=a-"] }).prefix, "bazel-");
});

Deno.test("links are left alone, or only removed, as the command says", () => {
  const mode = (name: string) => links({ typed: [`--experimental_convenience_symlinks=${name}`] });
  assert.deepEqual(mode("normal"), { prefix: "bazel-", clean: false });
  assert.deepEqual(mode("clean"), { prefix: "bazel-", clean: true });
  for (const name of ["ignore", "log_only"]) assert.deepEqual(mode(name), { clean: false });
  assert.deepEqual(links({ typed: ["--symlink_prefix=/"] }), { clean: false });
});
