import assert from "node:assert/strict";
import { BazelServer } from "./bazel_server.ts";
import { SessionNamespace } from "../namespace/mount_namespace.ts";
import { TestWorkspace } from "../test_agent.ts";

Deno.test("a Bazel server is shared, replaced when it was retired or killed, and ended", async (t) => {
  await using workspace = await TestWorkspace.make();
  const namespace = new SessionNamespace({
    kind: "auto",
    storageDirectory: workspace.storage,
    outputBase: workspace.outputBase,
  });
  const bazel = new BazelServer({
    namespace,
    workspace: workspace.workspace,
    startupOptions: workspace.startupOptions(),
    installBases: [],
  });
  try {
    const [first, same] = await Promise.all([bazel.ensure(), bazel.ensure()]);
    assert.equal(first, same, "two callers share one start");

    await t.step("a caller that loses interest does not stop the start for others", async () => {
      bazel.retire(first);
      const reason = new Error("no more interest");
      const patient = bazel.ensure();
      await assert.rejects(bazel.ensure(AbortSignal.abort(reason)), reason);
      const impatient = new AbortController();
      const given = bazel.ensure(impatient.signal);
      impatient.abort(reason);
      await assert.rejects(given, reason);
      const second = await patient;
      assert.notEqual(second.requestCookie, first.requestCookie, "the retired one was not found again");
      assert(first.exited.aborted);
      assert(!second.exited.aborted);
    });

    await t.step("its end is told, and the next caller gets another", async () => {
      const second = await bazel.ensure();
      const exited = new Promise((resolve) => second.exited.addEventListener("abort", resolve));
      const init = await namespace.init();
      await init.call(`kill -9 $(<'${workspace.storage}/out/server/server.pid.txt')`);
      await exited;
      const third = await bazel.ensure();
      assert.notEqual(third.requestCookie, second.requestCookie);
      await bazel.stop();
      assert(third.exited.aborted);
    });
  } finally {
    await bazel.stop();
    await namespace.close();
  }
});
