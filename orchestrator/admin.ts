/** What is done beside letting an orchestrator run: `orchestrator enrol NAME`, `orchestrator revoke NAME`. */
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { X509Certificate } from "node:crypto";
import { join, resolve } from "node:path";
import { RbsError } from "../proto/base/errors.ts";
import { fingerprint } from "../proto/enrolment/discovery.ts";
import { writeInvitation } from "../proto/enrolment/invitation.ts";
import { spiffeUri } from "../proto/identity/spiffe.ts";
import { DEFAULT_ORCHESTRATOR_ADDR, stateDirectory } from "../proto/base/state_directory.ts";
import { TokenEnroller } from "./identity/enroller.ts";
import { openAuthority, TRUST_DOMAIN } from "./identity/local_keys.ts";
import { type Revocable, revocationName } from "./identity/revocation_name.ts";
import { checkUserId } from "./api/request_checks.ts";
import { openStore, parseStoreLocation, STORE_SYNTAX, type StoreLocation } from "./store/store_location.ts";

/** The first words of the command lines that are meant. */
const VERBS = ["enrol", "revoke"];

interface Options {
  stateDir?: string;
  store?: StoreLocation;
  caCert?: string;
  caKey?: string;
  address: string;
  hours: number;
  undo: boolean;
  operator: boolean;
}

/** Whether a command line is one of these. */
export function isAdminCommand(args: readonly string[]): boolean {
  return VERBS.includes(args[0]);
}

/**
 * Does it, beside an orchestrator that runs or not: both work on the same store. Throws an RbsError.
 *
 * @param print Gets what is for standard output, a line at a time.
 */
export async function runAdminCommand(args: readonly string[], print: (line: string) => void): Promise<void> {
  const program = adminCommand(print);
  try {
    await program.parseAsync(args, { from: "user" });
  } catch (e) {
    if (!(e instanceof CommanderError)) throw e;
    if (e.exitCode === 0) return;
    const text = e.message.replace(/^error: /, "").replaceAll(/\s*\n\s*/g, " ").replace(/\.$/, "");
    throw new RbsError(`${text[0].toUpperCase()}${text.slice(1)}; see \`orchestrator ${args[0]} --help\`.`, {
      culprit: "caller",
      exitCode: 2,
    });
  }
}

/** These commands with their options; docs/settings.md is made from them. */
export function adminCommand(print: (line: string) => void): Command {
  const program = new Command("orchestrator").exitOverride().configureOutput({ writeOut: print, writeErr() {} });
  const define = (name: string, description: string, action: (name: string, options: Options) => Promise<void>) =>
    program.command(name).argument("<user>", "the name of a user, or with --operator of an operator", user).description(
      description,
    )
      .addOption(new Option("--state-dir <directory>", "the state directory of the orchestrator").env("RBS_STATE_DIR"))
      .addOption(
        new Option("--store <where>", `the store of the orchestrator: ${STORE_SYNTAX}`).env("RBS_STORE").argParser(
          store,
        ),
      )
      .addOption(
        new Option("--operator", "the name is an operator's, who may see and end the sessions of all users").default(
          false,
        ),
      )
      .exitOverride().configureOutput({ writeOut: print, writeErr() {} })
      .helpOption("-h, --help", "print this help")
      .action(action);
  define(
    "enrol",
    "Prints a token that enrols a user, or an operator. It works once: its bearer passes it to `jbazel login` on standard " +
      "input.",
    (name, options) => enrol(name, options, print),
  )
    .addOption(
      new Option("--address <host:port>", "the orchestrator's address as the user's machine sees it")
        .env("RBS_ORCHESTRATOR_ADDR").default(DEFAULT_ORCHESTRATOR_ADDR),
    )
    .addOption(new Option("--hours <number>", "how long the token is valid").argParser(hours).default(24))
    .addOption(new Option("--ca-cert <file>", "the same as for the orchestrator").env("RBS_CA_CERT"))
    .addOption(new Option("--ca-key <file>", "the same as for the orchestrator").env("RBS_CA_KEY"));
  define(
    "revoke",
    "Locks a user, or an operator, out: every call is refused from now on, whatever certificate is shown.",
    (name, options) => revoke(name, options, print),
  ).addOption(new Option("--undo", "let the user or operator in again").default(false));
  return program;
}

/** Who is meant by a name on the command line. */
function named(name: string, { operator }: Options): Revocable {
  return operator ? { kind: "operator", name } : { kind: "user", userId: name };
}

async function enrol(name: string, options: Options, print: (line: string) => void): Promise<void> {
  const state = stateOf(options);
  const { caCert, caKey, address, operator } = options;
  const outside = caCert && caKey ? { certificateFile: resolve(caCert), keyFile: resolve(caKey) } : undefined;
  const { authorities, trustDomain } = await openAuthority(state, outside);
  await using opened = await openStore(storeOf(options));
  const token = await new TokenEnroller(opened.identities, trustDomain)
    .issue(named(name, options), options.hours * 3600_000);
  const { raw } = new X509Certificate(authorities);
  print(writeInvitation({ address, fingerprint: fingerprint(raw), trustDomain, token, operator }));
}

async function revoke(name: string, options: Options, print: (line: string) => void): Promise<void> {
  await using opened = await openStore(storeOf(options));
  const identity = named(name, options);
  const who = `${options.operator ? "Operator" : "User"} ${name}`;
  const uri = spiffeUri(TRUST_DOMAIN, identity);
  const tokens = await opened.identities.revoke(revocationName(identity), uri, options.undo ? undefined : Date.now());
  if (options.undo) return print(`${who} is let in again.`);
  const isSeen = tokens > 0 ||
    (!options.operator && (await opened.sessions.list()).some((session) => session.userId === name));
  // Certificates are not written down, so that somebody who has one may be meant all the same.
  const unseen = options.operator
    ? "there is no unused token of that name here"
    : "nobody of that name has a session or an unused token here";
  print(isSeen ? `${who} is locked out.` : `${who} is locked out; ${unseen}: is it spelt right?`);
}

function stateOf({ stateDir }: Options): string {
  return stateDir ? resolve(stateDir) : stateDirectory();
}

function storeOf(options: Options): StoreLocation {
  return options.store ?? { kind: "sqlite", file: join(stateOf(options), "sessions.sqlite") };
}

function user(text: string): string {
  try {
    return checkUserId(text);
  } catch (e) {
    throw new InvalidArgumentError((e as Error).message);
  }
}

function hours(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || value > 720) throw new InvalidArgumentError("It must be from 1 to 720.");
  return value;
}

function store(text: string): StoreLocation {
  const location = parseStoreLocation(text);
  if (!location) throw new InvalidArgumentError(`It must be ${STORE_SYNTAX}.`);
  return location;
}
