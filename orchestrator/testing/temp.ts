/** A temporary directory that goes away with its scope. */
export function tempDirectory(): { path: string } & Disposable {
  const path = Deno.makeTempDirSync({ prefix: "rbs-orchestrator-" });
  return { path, [Symbol.dispose]: () => Deno.removeSync(path, { recursive: true }) };
}
