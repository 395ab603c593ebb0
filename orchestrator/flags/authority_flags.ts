import { Option } from "commander";
import { resolve } from "node:path";
import type { OutsideAuthority } from "../identity/local_keys.ts";
import type { FlagPart } from "./flag_part.ts";
import { wrongUsage } from "./wrong_usage.ts";

/** Who certifies users and agents. */
export interface AuthorityFlags {
  /** Undefined: an authority of the state directory's own. All paths are absolute. */
  readonly outsideAuthority?: OutsideAuthority;
}

/** The flags of the certificate authority. */
export const AUTHORITY_FLAGS: FlagPart<AuthorityFlags> = {
  options: () => [
    new Option(
      "--ca-cert <file>",
      "certificate of the authority that certifies users and agents, followed by its issuers, the root last (default: " +
        "an authority in the state directory)",
    ).env("RBS_CA_CERT"),
    new Option("--ca-key <file>", "its private key: PKCS #8, readable only by its owner").env("RBS_CA_KEY"),
  ],
  read({ caCert, caKey }) {
    if (Boolean(caCert) !== Boolean(caKey)) throw wrongUsage("--ca-cert and --ca-key belong together");
    return { outsideAuthority: caCert ? { certificateFile: resolve(caCert), keyFile: resolve(caKey) } : undefined };
  },
};
