/**
 * `deno task check`: whether the programs' imports keep to the floors of floors.ts, without a circle. Ends with 1, and a
 * sentence for each import that does not.
 */
import { relative } from "node:path";
import { FLOORS, PROGRAMS } from "./floors.ts";
import { PROGRAMS as COMPILED } from "./permissions.ts";

/** What each file imports, by paths relative to the repository. */
export type Imports = ReadonlyMap<string, readonly string[]>;

/** One sentence for each fault. */
export function faultsOf(
  imports: Imports,
  floors: readonly (readonly string[])[],
  programs: readonly string[],
): string[] {
  const faults: string[] = [];
  const program = (path: string) => programs.find((name) => path.startsWith(`${name}/`));
  for (const [file, imported] of imports) {
    const own = roomOf(file, floors);
    if (!own) {
      faults.push(`${file} is in no room: give it one in tools/floors.ts.`);
      continue;
    }
    for (const other of imported) {
      const its = roomOf(other, floors);
      if (!its || its.name === own.name) continue;
      if (program(other) && program(other) !== program(file)) {
        faults.push(`${file} imports ${other} of another program: what both need belongs in proto/.`);
      } else if (its.floor > own.floor) {
        faults.push(`${file} imports ${other} from a floor above (${own.name} is below ${its.name}).`);
      } else if (its.floor === own.floor) {
        faults.push(`${file} imports ${other} of another room of its floor (${own.name}, ${its.name}).`);
      }
    }
  }
  return [
    ...faults,
    ...circles(imports).map((files) => `These import each other: ${files.join(" → ")} → ${files[0]}.`),
  ];
}

function roomOf(path: string, floors: readonly (readonly string[])[]): { name: string; floor: number } | undefined {
  let found: { name: string; floor: number } | undefined;
  for (const [floor, rooms] of floors.entries()) {
    for (const name of rooms) {
      const fits = path === name || path.startsWith(`${name}/`);
      if (fits && name.length > (found?.name.length ?? 0)) found = { name, floor };
    }
  }
  return found;
}

/** A circle for each import that closes one. */
function circles(imports: Imports): string[][] {
  const found: string[][] = [], done = new Set<string>(), way: string[] = [];
  const visit = (file: string) => {
    if (way.includes(file)) return void found.push(way.slice(way.indexOf(file)));
    if (done.has(file)) return;
    way.push(file);
    for (const other of imports.get(file) ?? []) visit(other);
    way.pop();
    done.add(file);
  };
  for (const file of imports.keys()) visit(file);
  return found;
}

/** The part of `deno info --json` that is used. */
interface ModuleGraph {
  modules: {
    specifier: string;
    dependencies?: { code?: { specifier?: string }; type?: { specifier?: string } }[];
  }[];
}

/** What the programs' files import, types included, as Deno itself sees it. */
async function programImports(root: string): Promise<Imports> {
  const path = (url: string) => relative(root, new URL(url).pathname);
  const isOurs = (url?: string): url is string =>
    url !== undefined && url.startsWith(`file://${root}/`) && url.endsWith(".ts");
  const imports = new Map<string, string[]>();
  for (const { entry } of COMPILED) {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["info", "--frozen", "--json", entry],
      cwd: root,
    }).output();
    if (code !== 0) throw new Error(`deno info ${entry}: ${new TextDecoder().decode(stderr)}`);
    const { modules }: ModuleGraph = JSON.parse(new TextDecoder().decode(stdout));
    for (const { specifier, dependencies = [] } of modules) {
      if (!isOurs(specifier)) continue;
      const all = dependencies.flatMap(({ code, type }) => [code?.specifier, type?.specifier]).filter(isOurs);
      imports.set(path(specifier), [...new Set(all.map(path))]);
    }
  }
  return imports;
}

if (import.meta.main) {
  const imports = await programImports(new URL("..", import.meta.url).pathname.replace(/\/$/, ""));
  const faults = faultsOf(imports, FLOORS, PROGRAMS);
  for (const fault of faults) console.error(`check: ${fault}`);
  if (imports.size === 0) throw new Error("the programs import nothing: deno info says something else than it did");
  console.log(`Checked the imports of ${imports.size} files`);
  Deno.exit(faults.length > 0 ? 1 : 0);
}
