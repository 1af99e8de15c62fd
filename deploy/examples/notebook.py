# %% [markdown]
# Sieve a model, look at what the search has scored, and draw it. Open this file as a notebook, or run its cells one by
# one. It needs the data of `make_data.py` and `pip install 'ranksieve[plot]'`.

# %%
import ranksieve

sieved = ranksieve.sieve(
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "data/reviews.jsonl",
    prompt="Review: {{ text }}\nSentiment:",
    answer="{{ label }}",
    choices=["negative", "positive"],
    max_drop=2,
)
print(sieved.summary)

# %%
scored = sieved.to_pandas()
scored.groupby("generation")[["kept_share", "drop_points"]].min()

# %%
sieved.plot_tradeoff()

# %%
sieved.plot_ranks().savefig("ranks.pdf")
