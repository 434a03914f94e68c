/** A part of a long run, in a process of its own: the parent sends what to do, and is sent what came out. */
import { campaign, type CampaignOptions, type CampaignResult } from './campaign.ts';
import { sequences, type SequenceOptions, type SequenceResult } from './sequences.ts';

export type Job =
  | { readonly kind: 'forms'; readonly options: CampaignOptions }
  | { readonly kind: 'programs'; readonly options: SequenceOptions };

export type JobMessage =
  | { readonly progress: number }
  | { readonly forms: CampaignResult; readonly seconds: number }
  | { readonly programs: SequenceResult; readonly seconds: number }
  | { readonly error: string };

const send = (message: JobMessage, then?: () => void): void =>
  void process.send?.(message, undefined, undefined, () => then?.());

/** Processor time of this process, in seconds. */
function seconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

function work(job: Job): JobMessage {
  try {
    if (job.kind === 'programs') return { programs: sequences(job.options), seconds: seconds() };
    const forms = campaign({ ...job.options, progress: (done) => send({ progress: done }) });
    return { forms, seconds: seconds() };
  } catch (e) {
    return { error: e instanceof Error ? (e.stack ?? e.message) : String(e) };
  }
}

process.once('message', (job: Job) => send(work(job), () => process.exit()));
