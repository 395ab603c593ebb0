import { InvalidArgumentError, Option } from "commander";
import { isIP } from "node:net";
import type { FlagPart } from "./flag_part.ts";
import { wholeNumber } from "./option_values.ts";

/** Where the orchestrator is reached. */
export interface ListeningFlags {
  /** 0: any free port. */
  readonly port: number;
  /** The address to listen on, and that of its agents: "localhost", or an IP address. */
  readonly listen: string;
}

/** The flags of the orchestrator's listeners. */
export const LISTENING_FLAGS: FlagPart<ListeningFlags> = {
  options: () => [
    new Option("--port <number>", "port to listen on; 0 takes a free one")
      .env("RBS_PORT").argParser(wholeNumber(0, 65535)).default(50051),
    new Option(
      "--listen <address>",
      "IP address of this machine to listen on, for the orchestrator and its agents; localhost accepts connections " +
        "from this machine only",
    )
      .env("RBS_LISTEN").argParser(listenAddress).default("localhost"),
  ],
  read: ({ port, listen }) => ({ port, listen }),
};

function listenAddress(text: string): string {
  if (text === "localhost") return text;
  if (isIP(text) === 0) throw new InvalidArgumentError("it must be localhost or an IP address of this machine");
  if (/^[0:.]+$/.test(text)) {
    throw new InvalidArgumentError("it must be one address, since laptops are told to find their agents there");
  }
  return text;
}
