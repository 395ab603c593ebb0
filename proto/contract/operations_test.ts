import assert from "node:assert/strict";
import { join } from "node:path";
import { GRPC_OPERATIONS, grpcOperation } from "./operations.ts";

/** The paths of all methods of all services in a folder of generated code. */
async function methods(folder: string): Promise<string[]> {
  const paths: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    if (isDirectory) paths.push(...await methods(join(folder, name)));
    else if (name.endsWith(".ts")) {
      for (const one of Object.values(await import(join(folder, name))) as { kind?: string; typeName: string }[]) {
        if (one?.kind !== "service") continue;
        const { typeName, methods } = one as typeof one & { methods: { name: string }[] };
        paths.push(...methods.map(({ name }) => `/${typeName}/${name}`));
      }
    }
  }
  return paths;
}

Deno.test("each method of every service has an operation, and each path that has one is a method", async () => {
  const all = await methods(join(import.meta.dirname!, "gen"));
  assert.deepEqual(all.filter((path) => grpcOperation(path) === undefined), []);
  const unknown = Object.keys(GRPC_OPERATIONS).filter((path) => {
    return path.endsWith("/*") ? !all.some((one) => one.startsWith(path.slice(0, -1))) : !all.includes(path);
  });
  assert.deepEqual(unknown, []);
});

Deno.test("what is no method of ours has no operation, and Bazel's own service has one whatever its methods are", () => {
  for (
    const path of ["/rbs.v1.Agent/Reboot", "/rbs.v1.Agent/", "/toString", "/rbs.v1.Orchestrator/*x", "", "toString"]
  ) {
    assert.equal(grpcOperation(path), undefined, path);
  }
  assert.equal(grpcOperation("/command_server.CommandServer/AnythingNew"), "bazel-server.call");
});
