/** The orchestrator as a unit of the user's own systemd. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { RbsError, sentence } from "../../proto/base/errors.ts";
import type { Run, Service, ServiceManager } from "./service.ts";

/** A word of a unit file: `%` begins a specifier, and in a command line `$` a variable. */
function word(text: string, isCommand = false): string {
  const escaped = text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n").replaceAll("%", "%%");
  return `"${isCommand ? escaped.replaceAll("$", "$$$$") : escaped}"`;
}

/** A path of a unit file, which is not quoted. */
function path(text: string): string {
  return text.replaceAll("%", "%%");
}

/** The text of the unit. */
export function unitText({ program, args, workingDirectory, environment, log }: Service): string {
  const variables = Object.entries(environment).map(([name, value]) => `Environment=${word(`${name}=${value}`)}\n`);
  return `# Made by \`orchestrator install\`, which makes it anew; \`orchestrator stop\` takes it out of use.
[Unit]
Description=RBS orchestrator

[Service]
ExecStart=${[program, ...args].map((text) => word(text, true)).join(" ")}
WorkingDirectory=${path(workingDirectory)}
${variables.join("")}StandardOutput=append:${path(log)}
StandardError=inherit
Restart=on-failure
RestartSec=1
# Another start does not fix wrong usage.
RestartPreventExitStatus=2
# If it is killed, its agents go on, and the next start takes them over. Told to end, it ends them itself.
KillMode=process
TimeoutStopSec=60

[Install]
WantedBy=default.target
`;
}

/** The unit's name: the usual one for the usual state directory. */
export function unitName(stateDirectory: string, usual: string): string {
  if (stateDirectory === usual) return "rbs-orchestrator.service";
  return `rbs-orchestrator-${createHash("sha256").update(stateDirectory).digest("hex").slice(0, 8)}.service`;
}

/** See the file's head. */
export class Systemd implements ServiceManager {
  readonly name = "systemd";
  readonly endurance =
    "It starts again by itself with each login; `loginctl enable-linger` lets it run without one, too.";
  readonly #folder: string;
  readonly #unit: string;
  readonly #run: Run;

  /** @param folder Where the user's units are. Absolute. @param unit See {@link unitName}. */
  constructor(folder: string, unit: string, run: Run) {
    this.#folder = folder;
    this.#unit = unit;
    this.#run = run;
  }

  /** Whether this user has a systemd that answers. */
  static async isThere(run: Run): Promise<boolean> {
    return (await run("systemctl", ["--user", "show-environment"])).code === 0;
  }

  isInstalled(): Promise<boolean> {
    try {
      return Promise.resolve(Deno.statSync(join(this.#folder, this.#unit)).isFile);
    } catch {
      return Promise.resolve(false);
    }
  }

  async pid(): Promise<number | undefined> {
    const { output } = await this.#run("systemctl", ["--user", "show", "--property=MainPID", "--value", this.#unit]);
    return Number(output) || undefined;
  }

  async start(service: Service): Promise<void> {
    const file = join(this.#folder, this.#unit);
    try {
      Deno.mkdirSync(this.#folder, { recursive: true });
      Deno.writeTextFileSync(file, unitText(service));
    } catch (cause) {
      throw new RbsError(`The unit ${file} cannot be written (${sentence(cause)}): make the folder writable.`, {
        cause,
        culprit: "caller",
      });
    }
    await this.#tell("daemon-reload");
    await this.#tell("enable", this.#unit);
    await this.#tell("restart", this.#unit);
  }

  async stop(): Promise<void> {
    if (await this.isInstalled()) await this.#tell("disable", "--now", this.#unit);
  }

  async #tell(...args: string[]): Promise<void> {
    const { code, output } = await this.#run("systemctl", ["--user", ...args]);
    if (code === 0) return;
    throw new RbsError(`\`systemctl --user ${args.join(" ")}\` failed (${output.split("\n")[0]}): see to that first.`);
  }
}
