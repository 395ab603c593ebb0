/** The tests that start neither Bazel servers nor databases, which are over soon. */
import { dirname, join, relative } from "node:path";
import { ROOT } from "./compile.ts";

/** Who starts a Bazel server, an agent that does, or an emulator of Spanner, does so by one of these. */
const STARTERS = [
  "agent/test_agent.ts",
  "orchestrator/testing/spanner_emulator.ts",
  ...["bazels", "cluster", "workspace"].map((name) => `tests/support/${name}.ts`),
];

/** The test files in folders of the repository, by whether they reach one of {@link STARTERS} by what they import. */
export function byBazel(folders: readonly string[]): { without: string[]; rest: string[] } {
  const starters = new Set(STARTERS.map((path) => join(ROOT, path)));
  const known = new Map<string, boolean>();
  const starts = (path: string): boolean => {
    const before = known.get(path);
    if (before !== undefined) return before;
    known.set(path, false); // Whoever comes by here again finds nothing new.
    const does = starters.has(path) || imports(path).some(starts);
    known.set(path, does);
    return does;
  };
  const files = folders.flatMap((folder) => testFiles(join(ROOT, folder)));
  const named = (paths: string[]) => paths.map((path) => relative(ROOT, path)).sort();
  return { without: named(files.filter((path) => !starts(path))), rest: named(files.filter(starts)) };
}

/** The modules of the repository that a module imports, types among them. */
function imports(path: string): string[] {
  const found = Deno.readTextFileSync(path).matchAll(/(?:\bfrom|\bimport\(?)\s*"(\.[^"]+\.ts)"/g);
  return [...found].map(([, name]) => join(dirname(path), name));
}

function testFiles(folder: string): string[] {
  return [...Deno.readDirSync(folder)].flatMap(({ name, isDirectory }) =>
    isDirectory ? testFiles(join(folder, name)) : name.endsWith("_test.ts") ? [join(folder, name)] : []
  );
}
