# What a person does here. Each target works on a bare Debian 12 or 13 with git and make, as root, and sets up what it lacks.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# The targets share one cargo target folder, which they would only queue for.
.NOTPARALLEL:
.PHONY: help demo test test-canary test-deb build deb bench bench-engine bench-soak bench-soak-varnish bench-journal sim lint shell clean

DEBIAN13 := packaging/on-debian13.sh

help: ## What can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 25

demo: build ## Three varnishds, one purge, a cut and its healing; on a terminal it stays up until Ctrl-C
	@$(DEBIAN13) demo

test: build ## Every test: protocol, node, VMOD in varnishd, a fleet of varnishds
	@$(DEBIAN13) test

test-canary: build ## The demo must fail with a VMOD that applies nothing
	@$(DEBIAN13) canary

build: ## target/release/libvmod_powderhorn.so, for Debian 13's Varnish 7.7
	@$(DEBIAN13) build
	@$(DEBIAN13) results

deb: ## target/debian/varnish-powderhorn_*.deb, for Debian 13
	@$(DEBIAN13) deb
	@$(DEBIAN13) results

test-deb: deb ## The package: lintian, built twice the same, and docs/GETTING-STARTED.md, an upgrade and a purge of it on three nodes
	@$(DEBIAN13) check-deb
	@packaging/test-deb.sh target/debian

# What was measured comes to target/bench, also of a run in which something failed.
define run_bench
@POWDERHORN_COMMIT=$$(git describe --always --dirty --abbrev=12 2>/dev/null) $(DEBIAN13) bench $(1) $(ARGS); \
	status=$$?; $(DEBIAN13) results; exit $$status
endef

bench: bench-engine bench-soak bench-soak-varnish bench-journal ## Every benchmark; hours

bench-engine: build ## Purges in varnishd beside its own, bans and xkey; ARGS='--objects 100000' is quicker
	$(call run_bench,engine)

bench-soak: build ## 100 million purges through decoder, core and engine
	$(call run_bench,soak)

bench-soak-varnish: build ## 10 million purges through two varnishds
	$(call run_bench,soak-varnish)

bench-journal: build ## A day of purges on disk: rates, bytes, memory, starts, repairs, and PURGE with it; ARGS='--purges 10000000' is quicker
	$(call run_bench,journal)

sim: build ## Draws what the protocol does, computed and simulated, to target/figures; ARGS=--quick
	@$(DEBIAN13) sim $(ARGS); status=$$?; $(DEBIAN13) results; exit $$status

lint: ## Formatting and clippy, warnings as errors
	@$(DEBIAN13) lint

shell: ## A shell where the others run
	@$(DEBIAN13) shell

clean: ## Forget what was built; the Debian 13 root in ~/.cache/powderhorn stays
	@$(DEBIAN13) clean
