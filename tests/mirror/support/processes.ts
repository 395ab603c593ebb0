/** Looking at this machine's processes: who is there, whose child it is, and whether it is really gone. */
import { eventually } from "../../support/eventually.ts";

/** A process as /proc shows it. */
export interface Process {
  pid: number;
  ppid: number;
  /** Its arguments, argv[0] among them. */
  args: string[];
  /** Its arguments and, where this user may read them, its environment and working directory. */
  text: string;
}

/** All processes whose arguments, environment or working directory hold one of `names`; zombies are not among them. */
export async function processesNaming(...names: string[]): Promise<Process[]> {
  const found: Process[] = [];
  for await (const { name } of Deno.readDir("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === Deno.pid) continue;
    const read = (file: string) => Deno.readTextFile(`/proc/${pid}/${file}`).catch(() => "");
    const [cmdline, environ] = await Promise.all([read("cmdline"), read("environ")]);
    const directory = await Deno.readLink(`/proc/${pid}/cwd`).catch(() => "");
    const text = `${cmdline}\0${environ}\0${directory}`;
    if (cmdline === "" || !names.some((n) => text.includes(n))) continue;
    // "pid (name) state ppid …", and the name may hold anything.
    const fields = (await read("stat")).split(") ").at(-1)!.split(" ");
    if (fields[0] === "Z" || fields.length < 2) continue;
    found.push({ pid, ppid: Number(fields[1]), args: cmdline.split("\0").slice(0, -1), text });
  }
  return found;
}

/** The parent of each process of this machine, by process id. */
export async function parents(): Promise<Map<number, number>> {
  const found = new Map<number, number>();
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = await Deno.readTextFile(`/proc/${name}/stat`).catch(() => undefined);
    if (stat !== undefined) found.set(Number(name), Number(stat.split(") ").at(-1)!.split(" ")[1]));
  }
  return found;
}

/**
 * True while `pid` runs, be it as a process of another user; a zombie does not. One whose first thread has ended is no
 * zombie while others end: until they have, the process holds its sockets.
 */
export async function isAlive(pid: number): Promise<boolean> {
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`).catch(() => "");
  if (stat === "") return false;
  // "pid (name) state …", and the name may hold anything. The number of threads is field 20 (proc(5)).
  const fields = stat.split(") ").at(-1)!.split(" ");
  return !/^[ZX]/.test(fields[0]) || Number(fields[17]) > 1;
}

/** Resolves when `pid` has ended. */
export async function ended(pid: number, timeout?: number): Promise<void> {
  await eventually(async () => !await isAlive(pid), `process ${pid} ends`, timeout);
}

/** Sends a signal to a process that may have ended. */
export function signal(pid: number, name: Deno.Signal) {
  try {
    Deno.kill(pid, name);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound) && !(error instanceof TypeError)) throw error;
  }
}
