import { X509Certificate } from "node:crypto";
import { sentence } from "../../proto/base/errors.ts";
import type { BlankAgent } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import type { Credentials } from "../../proto/identity/credentials.ts";
import { enrol, renew } from "../../proto/enrolment/enrolment.ts";

/** How long a renewal that failed waits for the next attempt, at most. Milliseconds. */
const RETRY_MS = 30_000;

/** What {@link AgentIdentity} needs of a BlankAgent. */
export type IdentitySpec = Pick<BlankAgent, "orchestratorAddress" | "bootstrapToken" | "authorities" | "trustDomain">;

/** Options of {@link AgentIdentity.obtain}. */
export interface AgentIdentityOptions {
  log(line: string): void;
  /** Gets the first certificate. @default from the orchestrator that the spec names */
  enrol?(spec: IdentitySpec): Promise<Credentials>;
  /** Gets the next one. @default from the orchestrator */
  renew?(address: string, credentials: Credentials): Promise<Credentials>;
}

/**
 * The agent's certificate: got for the spec's token, and renewed at half its life, for as long as there is an
 * orchestrator that gives one. Key and certificate are in memory only.
 */
export class AgentIdentity implements Disposable {
  readonly #options: Required<AgentIdentityOptions>;
  #address: string;
  #credentials: Credentials;
  #timer?: ReturnType<typeof setTimeout>;
  readonly #listeners: ((credentials: Credentials) => void)[] = [];

  private constructor(address: string, credentials: Credentials, options: Required<AgentIdentityOptions>) {
    this.#address = address;
    this.#credentials = credentials;
    this.#options = options;
    this.#schedule();
  }

  /** Gets the first certificate. Throws an RpcError. */
  static async obtain(spec: IdentitySpec, options: AgentIdentityOptions): Promise<AgentIdentity> {
    const complete = {
      log: options.log,
      enrol: options.enrol ??
        ((spec: IdentitySpec) => enrol({ address: spec.orchestratorAddress }, spec, spec.bootstrapToken)),
      renew: options.renew ?? ((address: string, credentials: Credentials) => renew({ address }, credentials)),
    };
    return new AgentIdentity(spec.orchestratorAddress, await complete.enrol(spec), complete);
  }

  /** The present ones. */
  get credentials(): Credentials {
    return this.#credentials;
  }

  /** Calls `listener` with each new credentials. */
  onChange(listener: (credentials: Credentials) => void): void {
    this.#listeners.push(listener);
  }

  /** Says where the orchestrator is now. */
  orchestratorIsAt(address: string): void {
    if (address !== "") this.#address = address;
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  #schedule(failed = false): void {
    const { validFromDate, validToDate } = new X509Certificate(this.#credentials.certificate);
    const lifetime = validToDate.getTime() - validFromDate.getTime();
    const half = validFromDate.getTime() + lifetime / 2 - Date.now();
    const wait = failed ? Math.min(RETRY_MS, lifetime / 20) : Math.max(half, 0);
    this.#timer = setTimeout(() => this.#renew(), wait);
  }

  async #renew(): Promise<void> {
    try {
      const credentials = await this.#options.renew(this.#address, this.#credentials);
      this.#credentials = credentials;
      for (const listener of this.#listeners) listener(credentials);
      this.#schedule();
    } catch (e) {
      this.#options.log(`the agent's certificate could not be renewed: ${sentence(e)}`);
      this.#schedule(true);
    }
  }
}
