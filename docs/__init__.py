"""The pages, and the tools that write their generated parts."""
