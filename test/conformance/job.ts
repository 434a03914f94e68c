/** A part of a long run, in a process of its own: the parent sends what to do, and is sent what came out. */
import { campaign, type CampaignOptions, type CampaignResult } from './campaign.ts';
import { sequences, type SequenceOptions, type SequenceResult } from './sequences.ts';

export type Job =
  | { readonly kind: 'forms'; readonly options: CampaignOptions }
  | { readonly kind: 'programs'; readonly options: SequenceOptions };

export type JobMessage =
  | { readonly progress: number }
  | { readonly forms: CampaignResult }
  | { readonly programs: SequenceResult }
  | { readonly error: string };

const send = (message: JobMessage, then?: () => void): void =>
  void process.send?.(message, undefined, undefined, () => then?.());

function work(job: Job): JobMessage {
  try {
    return job.kind === 'forms'
      ? { forms: campaign({ ...job.options, progress: (done) => send({ progress: done }) }) }
      : { programs: sequences(job.options) };
  } catch (e) {
    return { error: e instanceof Error ? (e.stack ?? e.message) : String(e) };
  }
}

process.once('message', (job: Job) => send(work(job), () => process.exit()));
