"""Experts: trained policies, scripts and people."""
