"""What the words of a report mean."""

from __future__ import annotations

GLOSSARY = {
    "Variant": "Runs that differ in nothing but their seeds.",
    "Interquartile mean": (
        "The mean of the middle half of the seeds. One lucky or collapsed seed moves it little, and it uses more of "
        "the data than the median (Agarwal et al. 2021)."
    ),
    "95% interval": (
        "From 10,000 bootstrap resamples of the seeds (2,000 for curves), seeds drawn apart for each variant and "
        "environment; its ends are percentiles. With ten seeds such an interval covers the truth somewhat less often "
        "than 95%, with fewer seeds clearly less. It speaks of other seeds of the same settings, and of nothing else."
    ),
    "Probability of improvement": (
        "How likely a run of the first variant is to end above a run of the second, ties counting half. An interval "
        "that includes ½ tells the two apart in neither direction. It says how sure, not how large, a difference is."
    ),
    "Final return, sampled and greedy": (
        "The mean return over evaluation episodes after training, of the policy as it samples and of its most "
        "probable action."
    ),
    "Performance profile": "The share of seeds whose final return exceeds each level: higher is better everywhere.",
    "Steps to threshold": (
        "When the mean return of the last 100 training episodes first reaches the threshold. The upper median counts "
        "seeds that never do as later than all others, so “never” may be the end of an interval."
    ),
    "Bias, variance, cosine": (
        "Of the policy's gradient as the estimator gives it, against the exact gradient of the same critic by "
        "enumeration, in some states of each rollout that is diagnosed. They measure the estimator, not the critic."
    ),
    "Soft–hard gap": (
        "The critic's mean value where the estimator evaluates it, less its mean value of one-hot samples; not zero "
        "where the critic's opinion of relaxed actions is not its opinion of the actions that are taken."
    ),
}
